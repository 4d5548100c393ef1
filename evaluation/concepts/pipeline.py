"""Train a sparse auto-encoder or fit SpLiCE, and write concepts as tables, figures and metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import row_batches
from datamodules.cache import write_whole
from datamodules.factors import ImageData
from datamodules.features import FeatureData
from datamodules.splits import TEST
from datamodules.texts import TextData, read_texts, text_column
from datamodules.vectors import vectors
from evaluation.command import option
from evaluation.concepts.decomposition import Decomposition, concept_table, of_sae, of_texts, row_table
from evaluation.concepts.figures import draw_concepts, draw_images
from evaluation.embeddings.source import Source
from models import UserError, check_choice
from models.sae import SAE, Codes
from training.build import build, device_of
from training.checkpoints import finish, load_module
from training.data import load_data
from training.features import features_of
from training.files import csv_text, write_file
from training.fit import STEPS_PER_EPOCH, fit, stage_steps
from training.metrics import add_metrics
from training.run_folder import Run
from training.settings import Settings

__all__ = ["Options", "answer", "learn_concepts", "run_concepts"]

MINIMUM = {"sae.expansion": 1, "sae.dead_after": 1}  # see training.settings.of_pipeline
CHUNK = 4096
SHOWN = 20  # concepts that are printed


@dataclass
class Options:
    """Options, given as key=value."""

    method: str | None = option(None, "sae or splice (default: sae of a run of model=sae, else splice)")
    vocabulary: str | None = option(
        None,
        "file of texts, or of their vectors with vocabulary_names= (default: the rows themselves if they are texts)",
    )
    vocabulary_names: str | None = option(None, "file of the texts of vocabulary= where that has vectors")
    active: int | None = option(
        None, "active concepts per row, approximately with splice (default: 8 with splice, as trained with sae)"
    )
    penalty: float | None = option(None, "L1 penalty of SpLiCE, instead of active=")
    query: str | None = option(None, "row, text or image file whose concepts are printed", text=True)
    k: int = option(5, "rows with the largest activations to list for each concept")
    out: str | None = option(None, "folder for the files (default: the run, or embeddings/concepts)")
    json: bool = option(False, "print one JSON object")


def check_rows(data: FeatureData) -> None:
    """Check that every row is finite and not zero, and that some are not for testing.

    Raises:
        UserError: a row without a direction; test rows only.
    """
    bad = torch.cat([~(part.any(1) & part.isfinite().all(1)) for part in data.values.split(CHUNK)])
    if bad.any():
        row = int(bad.nonzero()[0])
        raise UserError(f"Expected finite rows with a direction, got {int(bad.sum())} that are all zeros or not finite,"
                        f" the first row {row} ({data.ids[row]}): leave these rows out.")  # fmt: skip
    if bool((data.split == TEST).all()):
        raise UserError(f"Expected rows that are not for testing, got none of {len(data.ids)}: change data.split.")


def vocabulary_of(source: Source, options: Options) -> tuple[list[str], Float[Tensor, "m d"]] | None:
    """Read texts and their embeddings from files, or take the rows themselves where these are texts.

    Raises:
        UserError: a file without texts; embeddings of another width than the rows', or without a direction.
    """
    data = source.vectors
    if options.vocabulary is None:
        named = data.texts is not None or source.config.data.get("names") is not None
        return (source.names, data.values) if named else None
    path = Path(options.vocabulary).expanduser()
    if path.suffix.lower() in (".npy", ".npz") or options.vocabulary_names is not None:
        texts = vectors(path, names=options.vocabulary_names)
        names, values = texts.ids, texts.values
    else:
        table = read_texts(path)
        words = table.cells[text_column(path, table, None)].dropna().astype(str).map(str.strip)
        if not (names := list(dict.fromkeys(word for word in words if word))):
            raise UserError(f"Expected texts in {path}, got {len(words)} empty ones: give a file with some.")
        values = torch.cat([source.embed_text(names[i : i + 256]) for i in range(0, len(names), 256)])
    if values.shape[1] != data.values.shape[1]:
        raise UserError(f"Expected a vocabulary of {data.values.shape[1]} numbers a text, as the rows have, got "
                        f"{values.shape[1]} in {path}: embed both by one encoder.")  # fmt: skip
    if len(zero := torch.nonzero(~values.any(1))):
        raise UserError(f"Expected texts with a direction in {path}, got all zeros for {len(zero)}, the first "
                        f"{names[int(zero[0])]!r}: leave them out.")  # fmt: skip
    return names, values


def decomposition(source: Source, options: Options) -> Decomposition:
    """Build the decomposition that the options choose.

    Raises:
        UserError: a method that the source does not have; no vocabulary for SpLiCE; options of the other method.
    """
    is_sae = source.run is not None and source.run.config.model.name == "sae"
    method = options.method or ("sae" if is_sae else "splice")
    check_choice("method", method, ("sae", "splice"))
    if method == "sae" and (source.run is None or not is_sae):
        raise UserError("Expected run=RUN of model=sae for method=sae, got another: train one, or use method=splice.")
    if method == "splice" and options.vocabulary is None:
        raise UserError("Expected vocabulary=FILE, the texts that are the concepts, got none: give a .txt with some.")
    if method == "sae" and options.penalty is not None:
        raise UserError("Expected penalty= with method=splice, got it with method=sae: choose active= instead.")
    if options.penalty is not None and options.active is not None:
        raise UserError("Expected active= or penalty=, either of which says how many texts a row has, got both.")
    check_rows(source.vectors)
    vocabulary = vocabulary_of(source, options)
    if method == "splice":
        assert vocabulary is not None
        return of_texts(source.vectors, vocabulary, 8 if options.active is None else options.active, options.penalty)
    assert source.run is not None
    sae = load_module(SAE, source.run.path / "checkpoints" / "last.ckpt").to(source.device)
    return of_sae(sae, vocabulary, active=options.active)


def write_results(folder: Path, data: FeatureData, names: Sequence[str], parts: Decomposition, codes: Codes,
                  k: int) -> pd.DataFrame:  # fmt: skip
    """Write both tables and the figures; return the table of concepts.

    Raises:
        UserError: a folder that cannot be written.
    """
    table = concept_table(codes, parts.titles, names, k, parts.cosines)
    write_file(folder / "concepts.csv", csv_text(table.assign(rows=table["rows"].str.join(" | "))))
    try:
        with write_whole(folder / "concepts.parquet") as temporary:
            row_table(codes, data.ids, parts.titles).to_parquet(temporary)
    except OSError as error:
        raise UserError(f"Expected to write into {folder}, got {error.strerror}: choose another folder.") from error
    draw_concepts(folder / "figures" / "concepts.png", table, texts=data.images is None)
    if data.images is not None:
        draw_images(folder / "figures" / "concept_images.png", table, codes, data.images)
    return table


def learn_concepts(config: Settings, data: ImageData | TextData | FeatureData, run: Run, device: torch.device) -> None:
    """Train the model of model=sae on the rows that are not for testing, measure it on all splits, and write results.

    Raises:
        UserError: rows that are not finite, all equal or zero; settings that no network can be built with.
    """
    data = features_of(config, data, run)
    check_rows(data)
    file = run.path / "checkpoints" / "last.ckpt"
    if not file.is_file():
        pl.seed_everything(config.seed, verbose=False)
        known = data.values[data.split != TEST].to(device)
        sae = build(config.sae, features=known.shape[1])
        settings = config.trainer.sae
        steps, size = stage_steps(config, settings.steps), min(settings.batch_size, len(known))
        with run.stage("sae") as stage:
            sae.start(known)
            batches = row_batches({"features": known}, size, config.seed, torch.arange(len(known)), STEPS_PER_EPOCH)
            stage.items = size * fit(sae, batches, run, "sae", config, steps, clip=settings.get("clip"))
        finish(sae, run, "sae", "last")
    with run.stage("concepts", len(data.ids)):
        texts = None if data.texts is None else (data.texts, data.values)
        parts = of_sae(load_module(SAE, file).to(device), texts)
        codes = parts.encode(data.values)
        run.update(parts.numbers(data, codes))
        write_results(run.path, data, data.texts or data.ids, parts, codes, Options.k)


def run_concepts(config: Settings, run: Run) -> None:
    """Train a sparse auto-encoder on the features of a run's data, and write its concepts.

    Raises:
        UserError: see `learn_concepts`.
    """
    device = device_of(config)
    learn_concepts(config, load_data(config, run), run, device)


def answer(source: Source, options: Options) -> tuple[dict[str, Any], pd.DataFrame]:
    """Answer the command as JSON and as a table.

    Raises:
        UserError: see `decomposition`; a query that is neither a row nor a text that can be embedded.
    """
    if options.k < 1:
        raise UserError(f"Expected k of at least 1, got {options.k}.")
    parts = decomposition(source, options)
    if options.query is not None:
        codes = parts.encode(source.embed([options.query])[0])
        concepts = row_table(codes, [options.query], parts.titles)["features"][0]
        return {"query": options.query, "concepts": concepts}, pd.DataFrame(concepts, columns=["feature", "value"])
    folder = source.folder if source.run or options.out else Path("embeddings/concepts")
    codes = parts.encode(source.vectors.values)
    numbers = parts.numbers(source.vectors, codes)
    table = write_results(folder, source.vectors, source.names, parts, codes, options.k)
    own = source.run is not None and (parts.kind == "sae" or source.run.config.model.name != "sae")
    if own and not options.out and options.active is None:  # the metrics of other settings are not those of the run
        add_metrics(folder, numbers)
    if parts.kind == "splice":
        numbers["splice/penalty"] = parts.model.penalty
    return {"files": str(folder), **numbers, "concepts": table.head(SHOWN).to_dict("records")}, table.head(SHOWN)
