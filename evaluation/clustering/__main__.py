"""Cluster the features of a run and score the clusterings: python -m evaluation.clustering run=RUN [seeds=10]
[methods=[kmeans,dec]].

    seeds=10 methods=[kmeans,dec]         fit what is missing, and print the scores of every method
    images=[FILE,FOLDER] or texts=[TEXT]  assign new images or texts to the clusters of the run's model
    ks=[2,3,4]                            suggest a number of clusters by prediction strength

The scores are the agreement with the labels (ami, ari, fmi, nmi, accuracy) on the rows of the fit and on held-out ones,
mean ± sd over seeds, and without labels the silhouette and the agreement between seeds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import MISSING, OmegaConf

from datamodules.splits import TEST
from evaluation.clustering.pipeline import check_settings, cluster
from evaluation.clustering.scores import MOST_COMPARED, prediction_strength
from evaluation.command import command, data_places, json_only, option, parse_options
from evaluation.report.page import write_report
from evaluation.report.summary import print_summary
from evaluation.run import LoadedRun, load
from models import UserError
from models.autoencoder import Autoencoder
from training.checkpoints import load_module
from training.files import csv_text, write_file
from training.run_folder import Run
from training.settings import Settings

__all__ = ["Options", "main"]

STRONG = 0.8  # prediction strength from which Tibshirani and Walther accept k clusters


def suggestion(strengths: Mapping[int, float]) -> int:
    """Choose the largest k whose prediction strength is at least .8, or else the k of the highest.

    >>> suggestion({2: 0.95, 3: 0.85, 4: 0.6})
    3
    """
    strong = [k for k, strength in strengths.items() if strength >= STRONG]
    return max(strong) if strong else max(strengths, key=lambda k: strengths[k])


@dataclass
class Options:
    """Options, given as key=value."""

    run: str = option(MISSING, "run folder of a clustering model, or a folder whose newest run is taken")
    seeds: int = option(1, "number of seeds, from the run's seed on")
    methods: list[str] | None = option(
        None, "methods among kmeans, autoencoder, dec, idec, turtle and temi (default: those of the run)"
    )
    label: str | None = option(None, "label to compare with (default: all that have classes)")
    images: list[str] | None = option(None, "new image files or folders to assign to clusters")
    texts: list[str] | None = option(None, "new texts to assign to clusters", text=True)
    ks: list[int] = option([], "numbers of clusters to compare by prediction strength")
    json: bool = option(False, "print one JSON object")


def with_options(config: Settings, options: Options) -> Settings:
    """Update the settings of a run with the options of the command.

    Raises:
        UserError: fewer than one seed.
    """
    changed = OmegaConf.merge(config, {key: value for key, value in vars(options).items()
                                       if key in ("seeds", "methods", "label") and value is not None})  # fmt: skip
    if options.seeds < 1:
        raise UserError(f"Expected seeds= to be at least 1, got {options.seeds}.")
    return changed


def predict(run: LoadedRun, options: Options) -> tuple[Any, str]:
    """Assign texts, image files or the images of folders to clusters by the run's model; write `predictions.csv`.

    Raises:
        UserError: no image; both images and texts; a run of vectors; a run without a clustering model.
    """
    from datamodules.folder import find_images

    if options.images is not None and options.texts is not None:
        raise UserError("Expected images= or texts=, got both: give one after the other.")
    names = [Path(name).expanduser() for name in options.images or ()]
    files = [file for name in names for file in (find_images(name)[0] if name.is_dir() else [name])]
    features = run.features(files) if options.texts is None else run.text_features(options.texts)
    clusterer = run.clusterer
    if run.config.head_input == "codes" and run.config.model.name in ("turtle", "temi"):
        autoencoder = load_module(Autoencoder, run.path / "checkpoints" / "autoencoder.ckpt")
        features = autoencoder.to(run.device).embed(features)
    with torch.inference_mode():
        certainty, clusters = clusterer.assign(features).max(1)
    new = {"image": [str(file) for file in files]} if options.texts is None else {"text": options.texts}
    table = pd.DataFrame(new | {"cluster": clusters.cpu(), "certainty": certainty.cpu()})
    write_file(run.path / "predictions.csv", csv_text(table))
    return table.to_dict("records"), table.to_string(index=False)


def suggest(run: LoadedRun, options: Options) -> tuple[Any, str]:
    """Suggest a number of clusters by prediction strength, on the rows of the training and validation splits.

    Raises:
        UserError: a number of clusters that is too small or too large for the rows.
    """
    values = run.vectors.values[run.vectors.split != TEST]
    compared = min(len(values), MOST_COMPARED)
    for k in options.ks:
        if not 2 <= k <= compared // 4:
            raise UserError(
                f"Expected ks= between 2 and {compared // 4}, a quarter of the {compared} rows that are compared, got "
                f"{k}: leave it out."
            )
    strengths = {k: prediction_strength(values, k, run.config.seed) for k in options.ks}
    best = suggestion(strengths)
    lines = [f"k={k}: prediction strength {strength:.3f}" for k, strength in strengths.items()]
    lines.append(f"Suggested: k={best}, the largest of strength {STRONG} or more, or else the strongest.")
    return {"suggested": best, "prediction_strength": strengths}, "\n".join(lines)


def extend(run: LoadedRun, options: Options) -> tuple[Any, str]:
    """Fit more seeds or methods of a run, and write them into its folder.

    Raises:
        UserError: see `check_settings`.
    """
    config = with_options(run.config, options)
    check_settings(config, run.data)
    config.trainer.accelerator = run.device.type
    record = Run(run.path, run.config)
    cluster(config, run.vectors, record, run.device)
    record.save()
    write_report(run.path)
    if not options.json:
        print_summary(record)
    keys = tuple(f"{prefix}{method}/" for prefix in ("", "heldout/") for method in config.methods)
    return {key: value for key, value in record.metrics.items() if key.startswith(keys)}, ""


def main(arguments: Sequence[str]) -> None:
    """Cluster, assign new rows or suggest a number of clusters, as the options choose."""
    arguments, places = data_places(arguments)
    options = parse_options(Options, arguments)
    run = load(options.run, places=places)
    if "k" not in run.config:
        raise UserError(
            f"Expected a run of a clustering model, got one of {run.config.model.name} at {run.path}: train model=dec."
        )
    with json_only(options.json):
        new = options.images is not None or options.texts is not None
        answer, shown = (predict if new else suggest if options.ks else extend)(run, options)
    print(json.dumps(answer) if options.json else shown)


if __name__ == "__main__":
    command(main, Options)
