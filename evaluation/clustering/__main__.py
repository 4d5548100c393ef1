"""Clusterings of a run's features, scored: python -m evaluation.clustering run=RUN [seeds=10] [methods=[kmeans,dec]].

Fits what is missing and prints the table of every method: agreement with the labels (ami, ari, fmi, nmi, accuracy) on
the rows it was fitted on and on held-out ones, mean ± sd over seeds. Without labels: silhouette, and how far the seeds
agree. images=[FILE,FOLDER,...] or texts=[TEXT,...] asks the run's model which cluster new ones are in, ks=[2,3,4]
suggests a number of clusters, json=true prints one JSON object.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import MISSING, OmegaConf

from datamodules.splits import TEST
from evaluation.clustering.pipeline import check_settings, cluster
from evaluation.clustering.scores import MOST_COMPARED, prediction_strength
from evaluation.command import aside, command, options
from evaluation.report.page import write_report
from evaluation.report.summary import print_summary
from evaluation.run import LoadedRun, load
from models import UserError
from models.autoencoder import Autoencoder
from training.checkpoints import load_module
from training.files import write_file
from training.run_folder import Run
from training.settings import Settings

__all__ = ["Options", "main"]

STRONG = 0.8  # prediction strength above which Tibshirani and Walther take k groups to be there


def suggestion(strengths: Mapping[int, float]) -> int:
    """The largest k whose prediction strength is at least .8, or else the k of the highest."""
    strong = [k for k, strength in strengths.items() if strength >= STRONG]
    return max(strong) if strong else max(strengths, key=lambda k: strengths[k])


@dataclass
class Options:
    run: str = MISSING
    seeds: int = 1
    methods: list[str] | None = None
    label: str | None = None
    images: list[str] | None = None
    texts: list[str] | None = None
    ks: list[int] = field(default_factory=list)
    json: bool = False


def asked_of(config: Settings, asked: Options) -> Settings:
    """The run's settings with what the command changes."""
    changed = OmegaConf.merge(config, {key: value for key, value in vars(asked).items()
                                       if key in ("seeds", "methods", "label") and value is not None})  # fmt: skip
    if asked.seeds < 1:
        raise UserError(f"Expected seeds= to be at least 1, got {asked.seeds}.")
    return changed


def predict(run: LoadedRun, asked: Options) -> tuple[Any, str]:
    """The cluster of each text, image file or image of a folder, by the run's own model; also as `predictions.csv`.

    Raises:
        UserError: no image, or what is none; both images and texts; a run of vectors; a run without a model of its own.
    """
    from datamodules.folder import find_images

    if asked.images is not None and asked.texts is not None:
        raise UserError("Expected images= or texts=, got both: ask one after the other.")
    names = [Path(name).expanduser() for name in asked.images or ()]
    files = [file for name in names for file in (find_images(name) if name.is_dir() else [name])]
    features = run.features(files) if asked.texts is None else run.text_features(asked.texts)
    clusterer = run.clusterer
    if run.config.head_input == "codes" and run.config.model.name in ("turtle", "temi"):
        autoencoder = load_module(Autoencoder, run.path / "checkpoints" / "autoencoder.ckpt")
        features = autoencoder.to(run.device).embed(features)
    with torch.inference_mode():
        certainty, clusters = clusterer.assign(features).max(1)
    new = {"image": [str(file) for file in files]} if asked.texts is None else {"text": asked.texts}
    table = pd.DataFrame(new | {"cluster": clusters.cpu(), "certainty": certainty.cpu()})
    write_file(run.path / "predictions.csv", table.to_csv(index=False))
    return table.to_dict("records"), table.to_string(index=False)


def suggest(run: LoadedRun, asked: Options) -> tuple[Any, str]:
    """A number of clusters by prediction strength, on the rows that are not for testing."""
    values = run.vectors.values[run.vectors.split != TEST]
    compared = min(len(values), MOST_COMPARED)
    for k in asked.ks:
        if not 2 <= k <= compared // 4:
            raise UserError(
                f"Expected ks= between 2 and {compared // 4}, a quarter of the {compared} rows that are compared, got "
                f"{k}: leave it out."
            )
    strengths = {k: prediction_strength(values, k, run.config.seed) for k in asked.ks}
    best = suggestion(strengths)
    lines = [f"k={k}: prediction strength {strength:.3f}" for k, strength in strengths.items()]
    lines.append(f"Suggested: k={best}, the largest of strength {STRONG} or more, or else the strongest.")
    return {"suggested": best, "prediction_strength": strengths}, "\n".join(lines)


def extend(run: LoadedRun, asked: Options) -> tuple[Any, str]:
    """More seeds or methods of the run, into its own folder."""
    config = asked_of(run.config, asked)
    check_settings(config, run.data)
    config.trainer.accelerator = run.device.type
    record = Run(run.path, run.config)
    cluster(config, run.vectors, record, run.device)
    record.save()
    write_report(run.path)
    if not asked.json:
        print_summary(record)
    keys = tuple(f"{prefix}{method}/" for prefix in ("", "heldout/") for method in config.methods)
    return {key: value for key, value in record.metrics.items() if key.startswith(keys)}, ""


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    run = load(asked.run)
    if "k" not in run.config:
        raise UserError(
            f"Expected a run of a clustering model, got one of {run.config.model.name} at {run.path}: train model=dec."
        )
    with aside(asked.json):
        new = asked.images is not None or asked.texts is not None
        answer, shown = (predict if new else suggest if asked.ks else extend)(run, asked)
    print(json.dumps(answer) if asked.json else shown)


if __name__ == "__main__":
    command(main)
