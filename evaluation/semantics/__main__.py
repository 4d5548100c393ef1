"""Compare embeddings with words: python -m evaluation.semantics run=RUN or data=... encoder=clip ...

what, one or several of them:
  'captions=["a cat","a dog"]' images=[a.jpg,b.jpg]  cosines of captions with images, the largest of each row marked;
                       images=3 of that many rows, drawn at random; of data=pairs captions= may be left out
  'prompts={glasses:["a face with glasses","a face without glasses"]}'  which of two texts each image shows;
                       of an IIN run also what its edits change by CLIP, with semantics/... in its metrics.json
  correlate=labels     or prompts: their correlation with each component of the embeddings, or of a run's codes
  gap=true             how far images and texts lie apart: those of data=pairs, or of captions= and prompts=
how:
  confidence=0.5       probability below which neither text is taken for a label
  measure=pearson      or spearman, mutual_information; k=10 components are named for each attribute
  space=features       of a run, or iin, dec, autoencoder (default: an IIN's codes)
  'prompt_encoder={architecture:ViT-B-32,weights:openai}'  the CLIP that reads images where encoder= or the run has none
  n=5000               rows for correlations and the gap; most=500 test images to edit; seed=0
  out=embeddings/semantics, a folder for tables and pictures (of a run: its figures); json=true prints one JSON object
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from omegaconf import OmegaConf

from datamodules.captions import PairData
from evaluation.command import aside, command
from evaluation.drawing.heatmap import heatmap
from evaluation.embeddings.answer import Answer
from evaluation.embeddings.source import Source, asked_source
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
from training.files import read_json, write_json
from training.zero_shot_labels import checked, read

if TYPE_CHECKING:
    pass

__all__ = ["Options", "main"]

CORRELATE = ("labels", "prompts")


@dataclass
class Options:
    """See the module's text."""

    captions: list[str] | None = None
    images: Any = None
    prompts: dict[str, list[str]] | None = None
    correlate: str | None = None
    gap: bool = False
    confidence: float = 0.5
    measure: str = "pearson"
    k: int = 10
    space: str | None = None
    prompt_encoder: dict[str, Any] | None = None
    n: int = 5000
    most: int = 500
    seed: int = 0
    out: str | None = None
    json: bool = False


def answer_prompts(source: Source, reader: Source, asked: Options, answer: Answer) -> None:
    """Zero-shot labels and, of an IIN run, its edits as CLIP sees them."""
    prompts, folder = checked(asked.prompts, asked.confidence), source.folder
    table, shares = zero_shot(reader, prompts, asked.confidence)
    answer.sheet(folder, "zero_shot", table)
    answer.content["zero_shot"] = shares.to_dict("records")
    answer.printed.append(shares.round(3).to_string(index=False))
    run = source.run
    if run is None or run.config.model.name != "iin" or not {f.name for f in run.iin.factors} & set(prompts):
        return
    edits, numbers = judge_edits(run, reader.encoder, prompts, asked.most, asked.seed)
    answer.sheet(folder, "semantics", edits)
    matrix = edits.assign(edit=edits["factor"] + " → " + edits["to"], change=100 * edits["change"])
    matrix = matrix.pivot_table(index="edit", columns="text", values="change", sort=False)
    answer.picture(
        folder, "semantics", heatmap(matrix, "Change of 100 × cosine by edit (row) and text (column)", "change")
    )
    answer.content.update(edits=edits.to_dict("records"), metrics=numbers)
    answer.printed.append(edits.round(4).to_string(index=False))
    answer.printed.append("\n".join(f"{key:<40}{value:.3f}" for key, value in numbers.items()))
    file = run.path / "metrics.json"
    write_json(file, read_json(file) | numbers)


def answer_correlation(source: Source, reader: Source, asked: Options, answer: Answer) -> None:
    """Components by labels, or by how far each row shows the first text rather than the second."""
    check_choice("correlate", asked.correlate, CORRELATE)
    check_choice("measure", asked.measure, MEASURES)
    if source.run:
        name = asked.space or ("iin" if source.run.config.model.name == "iin" else "features")
        values = spaces_of(source.run, [name])[name]
    elif asked.space not in (None, "features"):
        raise UserError(f"Expected space= with run=RUN, got space={asked.space} without one: leave it out.")
    else:
        values = reader.vectors.values if pairs_of(reader) else source.vectors.values
    if asked.correlate == "labels":
        scores = attributes((reader if pairs_of(reader) else source).vectors.factors)
        if scores.empty:
            raise UserError("Expected rows with labels for correlate=labels, got none: name them, or use prompts.")
    else:
        readings = read(reader.encoder, reader.vectors.values, checked(asked.prompts, asked.confidence))
        scores = pd.DataFrame({name: reading.score.double().numpy() for name, reading in readings.items()})
    rows = draw_rows(len(values), asked.n, asked.seed)
    chosen, scores = values[torch.from_numpy(rows)].numpy(), scores.iloc[rows].reset_index(drop=True)
    table = correlations(chosen, scores, asked.measure, asked.seed)
    top = top_components(chosen, scores, table, asked.k, asked.seed)
    answer.sheet(source.folder, f"correlation_{asked.measure}", table, index=True)
    answer.sheet(source.folder, "components", top)
    shown = sorted(set(top["component"]))[:200]
    measure = {"pearson": "Pearson r", "spearman": "Spearman ρ"}.get(asked.measure, asked.measure.replace("_", " "))
    drawing = heatmap(table.loc[shown].T, f"Components and {asked.correlate}: {measure}", measure)
    answer.picture(source.folder, f"correlation_{asked.measure}", drawing)
    known = int(scores.notna().sum().min())  # of the label that fewest rows have
    chance = chance_level(known, table.size)
    answer.content.update(components=top.to_dict("records"), chance=chance, rows=known)
    answer.printed.append(top.round(3).to_string(index=False))
    answer.printed.append(f"{known} rows; by chance 1 of 20 such tables has an |r| above {chance:.3f} anywhere")


def answer_gap(reader: Source, asked: Options, answer: Answer) -> None:
    """The modality gap of pairs, or of the images and the texts that are named."""
    pairs = pairs_of(reader)
    if pairs is not None:
        images, texts = pairs.images.values.numpy(), pairs.texts.values.numpy()
        found = gap_of(images, texts, pairs.image_of.numpy())
    else:
        named = [*(asked.captions or []), *(text for pair in (asked.prompts or {}).values() for text in pair)]
        if len(set(named)) < 2:
            raise UserError("Expected data=pairs, or two or more texts as captions= or prompts=, for gap=true.")
        if reader.vectors.texts is not None:
            raise UserError("Expected images for gap=true, got texts: choose data=pairs or a data set of images.")
        rows = torch.from_numpy(draw_rows(len(reader.vectors.ids), asked.n, asked.seed))
        found = gap_of(reader.vectors.values[rows].numpy(), reader.embed_text(list(dict.fromkeys(named))).numpy())
    answer.content["gap"] = found
    answer.printed.append("\n".join(f"{key:<14}{value:.3f}" for key, value in found.items()))


def main(arguments: Sequence[str]) -> None:
    asked, source = asked_source(Options, arguments, "embeddings/semantics")
    if asked.most < 1:
        raise UserError(f"Expected most=, the images to edit, from 1, got {asked.most}: choose more.")
    if asked.prompts is None and source.run and source.run.config.get("prompts"):
        asked.prompts = OmegaConf.to_container(source.run.config.prompts)  # type: ignore[assignment]  # of texts
    if asked.images is None and asked.prompts is None and asked.correlate is None and not asked.gap:
        raise UserError("Expected images=, prompts=, correlate= or gap=true, got none: --help tells of each.")
    answer = Answer({}, [], [])
    with aside(asked.json):
        reads = asked.images is not None or asked.prompts is not None or asked.gap or asked.correlate == "prompts"
        pairs = source.has_rows and isinstance(source.data, PairData)
        reader = reader_of(source, asked.prompt_encoder) if reads or pairs else source  # labels need none
        if asked.images is not None:
            table = cosines(reader, asked.captions, asked.images, asked.seed)
            answer.sheet(source.folder, "cosines", table, index=True)
            answer.picture(source.folder, "cosines", marked(table))
            names = {"captions": list(table.index), "images": list(table.columns)}
            answer.content["cosines"] = names | {"values": table.to_numpy()}
            answer.printed.append(table.round(4).to_string())
        if asked.prompts is not None:
            answer_prompts(source, reader, asked, answer)
        if asked.correlate is not None:
            answer_correlation(source, reader, asked, answer)
        if asked.gap:
            answer_gap(reader, asked, answer)
    answer.show(asked.json)


if __name__ == "__main__":
    command(main)
