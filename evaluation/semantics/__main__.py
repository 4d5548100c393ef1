"""Compare embeddings with texts: python -m evaluation.semantics run=RUN or data=... encoder=clip ...

Choose one or several of:

    'captions=["a cat","a dog"]' images=[a.jpg,b.jpg]    cosines of captions with images
    'prompts={glasses:["with glasses","without"]}'       zero-shot labels by the nearer of two texts; on an IIN run
                                                         also the change of its edits by CLIP, in its metrics.json
    correlate=labels, or prompts                         correlation with each component of the embeddings or codes
    gap=true                                             modality gap between images and texts
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from omegaconf import OmegaConf

from datamodules.captions import PairData
from evaluation.command import command, json_only, option
from evaluation.drawing.heatmap import heatmap
from evaluation.embeddings.answer import Answer
from evaluation.embeddings.source import Source, SourceOptions, options_and_source
from evaluation.maps.neighbours import draw_rows
from evaluation.run import spaces_of
from evaluation.semantics.clip_judge import judge_edits
from evaluation.semantics.correlation import (
    MEASURES,
    attributes,
    chance_level,
    correlations,
    top_components,
)
from evaluation.semantics.correlation import modality_gap as gap_of
from evaluation.semantics.prompts import cosines, marked, zero_shot
from evaluation.semantics.text_source import pairs_of, reader_of
from models import UserError, check_choice
from training.metrics import add_metrics
from training.zero_shot_labels import checked, read

__all__ = ["Options", "main"]

CORRELATE = ("labels", "prompts")


@dataclass
class Options:
    """Options, given as key=value."""

    captions: list[str] | None = option(None, "texts to compare with images= (default: those of data=pairs)", text=True)
    images: Any = option(None, "names of rows or image files, or a number of rows drawn at random", text=True)
    prompts: dict[str, list[str]] | None = option(
        None,
        "two texts for each factor, the one that shows it first (default: those that the run was trained with)",
        text=True,
    )
    correlate: str | None = option(None, "scores to correlate with components: labels or prompts")
    gap: bool = option(False, "measure the modality gap of data=pairs, or of images with captions= and prompts=")
    confidence: float = option(0.5, "probability below which an image gets no zero-shot label")
    measure: str = option("pearson", "measure of correlation: pearson, spearman or mutual_information")
    k: int = option(10, "components to list for each attribute")
    space: str | None = option(
        None,
        "space of a run to correlate: features, iin, dec or autoencoder (default: iin of an IIN run, else features)",
    )
    prompt_encoder: dict[str, Any] | None = option(
        None,
        "CLIP for texts where the encoder reads none, as {architecture:ViT-B-32,weights:openai} (default: that of the "
        "run, or of models.clip)",
    )
    n: int = option(5000, "largest number of rows for correlations and the gap")
    max_images: int = option(500, "largest number of test images to edit", former="most")
    seed: int = option(0, "seed of the rows that are drawn")
    out: str | None = option(None, "folder for the files (default: figures of the run, or embeddings/semantics)")
    json: bool = option(False, "print one JSON object")


def answer_prompts(source: Source, reader: Source, options: Options, answer: Answer) -> None:
    """Add zero-shot labels to the answer and, for an IIN run, the change of its edits by CLIP."""
    prompts, folder = checked(options.prompts, options.confidence), source.folder
    table, shares = zero_shot(reader, prompts, options.confidence)
    answer.write_table(folder, "zero_shot", table)
    answer.content["zero_shot"] = shares.to_dict("records")
    answer.printed.append(shares.round(3).to_string(index=False))
    run = source.run
    if run is None or run.config.model.name != "iin" or not {f.name for f in run.iin.factors} & set(prompts):
        return
    edits, numbers = judge_edits(run, reader.encoder, prompts, options.max_images, options.seed)
    answer.write_table(folder, "semantics", edits)
    matrix = edits.assign(edit=edits["factor"] + " → " + edits["to"], change=100 * edits["change"])
    matrix = matrix.pivot_table(index="edit", columns="text", values="change", sort=False)
    drawing = heatmap(matrix, "Change of 100 × cosine by edit (row) and text (column)", "change")
    answer.write_picture(folder, "semantics", drawing)
    answer.content.update(edits=edits.to_dict("records"), metrics=numbers)
    answer.printed.append(edits.round(4).to_string(index=False))
    answer.printed.append("\n".join(f"{key:<40}{value:.3f}" for key, value in numbers.items()))
    add_metrics(run.path, numbers)


def answer_correlation(source: Source, reader: Source, options: Options, answer: Answer) -> None:
    """Add the correlation of components with labels, or with the zero-shot scores of prompts, to the answer."""
    check_choice("correlate", options.correlate, CORRELATE)
    check_choice("measure", options.measure, MEASURES)
    if source.run:
        name = options.space or ("iin" if source.run.config.model.name == "iin" else "features")
        values = spaces_of(source.run, [name])[name]
    elif options.space not in (None, "features"):
        raise UserError(f"Expected space= with run=RUN, got space={options.space} without one: leave it out.")
    else:
        values = reader.vectors.values if pairs_of(reader) else source.vectors.values
    if options.correlate == "labels":
        scores = attributes((reader if pairs_of(reader) else source).vectors.factors)
        if scores.empty:
            raise UserError("Expected rows with labels for correlate=labels, got none: name them, or use prompts.")
    else:
        readings = read(reader.encoder, reader.vectors.values, checked(options.prompts, options.confidence))
        scores = pd.DataFrame({name: reading.score.double().numpy() for name, reading in readings.items()})
    rows = draw_rows(len(values), options.n, options.seed)
    chosen, scores = values[torch.from_numpy(rows)].numpy(), scores.iloc[rows].reset_index(drop=True)
    table = correlations(chosen, scores, options.measure, options.seed)
    top = top_components(chosen, scores, table, options.k, options.seed)
    answer.write_table(source.folder, f"correlation_{options.measure}", table, index=True)
    answer.write_table(source.folder, "components", top)
    shown = sorted(set(top["component"]))[:200]
    name = options.measure.replace("_", " ")
    measure = {"pearson": "Pearson r", "spearman": "Spearman ρ"}.get(options.measure, name)
    drawing = heatmap(table.loc[shown].T, f"Components and {options.correlate}: {measure}", measure)
    answer.write_picture(source.folder, f"correlation_{options.measure}", drawing)
    known = int(scores.notna().sum().min())  # rows with the rarest label
    chance = chance_level(known, table.size)
    answer.content.update(components=top.to_dict("records"), chance=chance, rows=known)
    answer.printed.append(top.round(3).to_string(index=False))
    answer.printed.append(f"{known} rows; 1 of 20 such tables has an |r| above {chance:.3f} anywhere by chance")


def answer_gap(reader: Source, options: Options, answer: Answer) -> None:
    """Add the modality gap of pairs, or of the images and the texts of the options, to the answer."""
    pairs = pairs_of(reader)
    if pairs is not None:
        images, texts = pairs.images.values.numpy(), pairs.texts.values.numpy()
        found = gap_of(images, texts, pairs.image_of.numpy())
    else:
        texts_given = [*(options.captions or []), *(text for pair in (options.prompts or {}).values() for text in pair)]
        if len(set(texts_given)) < 2:
            raise UserError("Expected data=pairs, or two or more texts as captions= or prompts=, for gap=true.")
        if reader.vectors.texts is not None:
            raise UserError("Expected images for gap=true, got texts: choose data=pairs or a data set of images.")
        rows = torch.from_numpy(draw_rows(len(reader.vectors.ids), options.n, options.seed))
        found = gap_of(reader.vectors.values[rows].numpy(), reader.embed_text(list(dict.fromkeys(texts_given))).numpy())
    answer.content["gap"] = found
    answer.printed.append("\n".join(f"{key:<14}{value:.3f}" for key, value in found.items()))


def main(arguments: Sequence[str]) -> None:
    """Answer the questions that the options choose."""
    options, source = options_and_source(Options, arguments, "embeddings/semantics")
    if options.max_images < 1:
        raise UserError(f"Expected max_images= of at least 1, got {options.max_images}: choose more.")
    if options.prompts is None and source.run and source.run.config.get("prompts"):
        options.prompts = OmegaConf.to_container(source.run.config.prompts)  # type: ignore[assignment]  # of texts
    if options.images is None and options.prompts is None and options.correlate is None and not options.gap:
        raise UserError("Expected images=, prompts=, correlate= or gap=true, got none: --help describes each.")
    answer = Answer({}, [], [])
    with json_only(options.json):
        reads = (
            options.images is not None or options.prompts is not None or options.gap or options.correlate == "prompts"
        )
        pairs = source.has_rows and isinstance(source.data, PairData)
        reader = reader_of(source, options.prompt_encoder) if reads or pairs else source  # labels need none
        if options.images is not None:
            table = cosines(reader, options.captions, options.images, options.seed)
            answer.write_table(source.folder, "cosines", table, index=True)
            answer.write_picture(source.folder, "cosines", marked(table))
            names = {"captions": list(table.index), "images": list(table.columns)}
            answer.content["cosines"] = names | {"values": table.to_numpy()}
            answer.printed.append(table.round(4).to_string())
        if options.prompts is not None:
            answer_prompts(source, reader, options, answer)
        if options.correlate is not None:
            answer_correlation(source, reader, options, answer)
        if options.gap:
            answer_gap(reader, options, answer)
    answer.show(options.json)


if __name__ == "__main__":
    command(main, Options, SourceOptions)
