"""Clusterings of a run's features, scored: python -m evaluation.clustering run=RUN [seeds=10] [methods=[kmeans,dec]].

Fits what is missing and prints the table of every method: agreement with the labels (ami, ari, fmi, nmi, accuracy) on
the rows it was fitted on and on held-out ones, mean ± sd over seeds. Without labels: silhouette, and how far the seeds
agree. images=[FILE,FOLDER,...] or texts=[TEXT,...] asks the run's model which cluster new ones are in, ks=[2,3,4]
suggests a number of clusters, json=true prints one JSON object.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int64
from omegaconf import MISSING, OmegaConf
from torch import Tensor

from datamodules.factors import TEST, FactorTable, ImageData, near_names
from datamodules.features import FeatureData
from datamodules.texts import TextData
from evaluation.agreement import (
    MOST_COMPARED,
    occupancy,
    prediction_strength,
    scores,
    silhouette,
    stability,
    used_clusters,
)
from evaluation.clusterers import METHODS, Fits, Fitted
from evaluation.command import aside, command, options
from evaluation.files import write_file
from evaluation.record import Run
from evaluation.report import write_report
from evaluation.run import LoadedRun, load, load_module
from evaluation.settings import Settings
from models import UserError, check_choice
from models.autoencoder import Autoencoder

__all__ = ["Options", "check_settings", "cluster", "main", "scores"]

STRONG = 0.8  # prediction strength above which Tibshirani and Walther take k groups to be there
SEPARATE = 0.01  # of the codes' spread: centres that are nearer are one


def check_settings(config: Settings, data: ImageData | TextData | FeatureData) -> None:
    """Refuse what does not fit the data, before any time is spent on its features.

    Raises:
        UserError: an unknown method, label, fit_on or head_input; a label without classes; a k that does not fit.
    """
    unknown = [method for method in config.methods if method not in METHODS]
    if unknown or not config.methods:
        got = repr(unknown[0]) if unknown else "none"
        near = near_names(unknown[0], METHODS) if unknown else ""
        raise UserError(f"Expected methods among {', '.join(METHODS)}, got {got}.{near}")
    check_choice("fit_on", config.fit_on, ("train", "all"))
    check_choice("head_input", config.head_input, ("features", "codes"))
    scored(config, data.factors)
    k = number_of_clusters(config, data.factors, len(fitted_rows(config, data)))
    if config.k is None:
        print(f"k={k}, as {data.factors.factors[scored(config, data.factors)[0]].name} has so many classes.")


def fitted_rows(config: Settings, data: ImageData | TextData | FeatureData) -> Int64[Tensor, " rows"]:
    """The rows that are clustered; the others are only asked about."""
    return torch.arange(len(data.ids)) if config.fit_on == "all" else torch.nonzero(data.split != TEST).flatten()


def number_of_clusters(config: Settings, factors: FactorTable, rows: int) -> int:
    """k as asked for, or as many as the one labelled factor has classes: the only thing that labels are used for.

    Raises:
        UserError: neither; fewer than 2; more than there are rows.
    """
    k = config.k
    if k is None:
        discrete = scored(config, factors)
        if len(discrete) != 1:
            raise UserError(
                f"Expected k=..., the number of clusters, got none, and {len(discrete)} factors to take it from: set "
                "k=10, for instance; python -m evaluation.clustering run=RUN ks=[2,3,4,5] suggests one."
            )
        k = len(factors.factors[discrete[0]].values)
    if type(k) is not int or not 2 <= k <= rows:
        raise UserError(f"Expected k between 2 and {rows}, the rows to cluster, got {k!r}: choose another k=.")
    return k


def scored(config: Settings, factors: FactorTable) -> list[int]:
    """The factors that clusters are compared with: `label`, or all that have classes.

    Raises:
        UserError: a label that is no factor, or one without classes.
    """
    discrete = [i for i, factor in enumerate(factors.factors) if factor.kind != "continuous"]
    if config.label is None:
        return discrete
    if (chosen := factors.index(config.label)) not in discrete:
        names = ", ".join(factors.factors[i].name for i in discrete) or "none"
        raise UserError(
            f"Expected label= to be a factor that has classes, got {config.label}, which is continuous: choose among "
            f"those that have ({names}), or leave it out."
        )
    return [chosen]


def check_values(values: Float[Tensor, "n features"]) -> None:
    """Raises UserError where no method can tell the rows apart."""
    for start, part in enumerate(values.split(8192)):
        if not (finite := part.isfinite().all(1)).all():
            row = start * 8192 + int((~finite).nonzero()[0])
            raise UserError(f"Expected finite features, got NaN or infinities in row {row}: mend the data or encoder.")
    if len(values) < 2 or bool((values == values[0]).all()):
        raise UserError(f"Expected features that differ, got {len(values)} equal rows: choose other data or a layer.")


def summarised(prefix: str, per_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`prefix/number` of one seed; of several `prefix/number_mean` and `_sd`, that of the sample."""
    if len(per_seed) == 1:
        return {f"{prefix}/{key}": value for key, value in per_seed[0].items()}
    result: dict[str, float] = {}
    for key in per_seed[0]:
        values = [numbers[key] for numbers in per_seed if key in numbers]
        result |= {f"{prefix}/{key}_mean": statistics.mean(values), f"{prefix}/{key}_sd": statistics.stdev(values)}
    return result


def measured(method: str, fits: Sequence[Fitted], data: FeatureData, rows: Int64[Tensor, " rows"],
             factors: Sequence[int], k: int) -> dict[str, float]:  # fmt: skip
    """All numbers of one method: on the rows that it was fitted on and, under `heldout/`, on the test split's."""
    parts = {"": rows} if len(rows) == len(data.ids) else {"": rows, "heldout/": data.rows(TEST)}
    found: dict[str, float] = {}
    for prefix, part in parts.items():
        for factor in factors:
            labels = data.factors.values[part, factor]
            if labels.isnan().all():
                continue
            name = f"{prefix}{method}" + (f"/{data.factors.factors[factor].name}" if len(factors) > 1 else "")
            found |= summarised(name, [scores(labels, fit.clusters[part]) for fit in fits])
    shares = [occupancy(fit.clusters[rows], k) for fit in fits]
    details = [
        {"used_clusters": float(used_clusters(share)), "smallest_share": float(share.min()),
         "largest_share": float(share.max()), **fit.details}
        for share, fit in zip(shares, fits, strict=True)
    ]  # fmt: skip
    found |= summarised(method, details)
    quality = {"silhouette": silhouette(data.values[rows], fits[0].clusters[rows])}
    quality["stability"] = stability([fit.clusters[rows] for fit in fits])
    return found | {f"{method}/{key}": value for key, value in quality.items() if value is not None}


def collapse_notes(method: str, fits: Sequence[Fitted], rows: Tensor, k: int) -> list[str]:
    """A line for each fit that left clusters (nearly) empty, or centres (nearly) in one place."""
    notes, advice = [], "try fewer clusters, another seed, a lower learning rate or another method."
    for i, fit in enumerate(fits):
        share, where = occupancy(fit.clusters[rows], k), f" (seed {i + 1} of {len(fits)})" if len(fits) > 1 else ""
        if (count := used_clusters(share)) < k:
            others = "empty" if count == (share > 0).sum() else "empty or below 1 % of an equal share"
            notes.append(f"{method} uses {count} of {k} clusters{where}, the others are {others}. Its scores compare "
                         f"fewer groups; {advice}")  # fmt: skip
        if (separation := fit.details.get("center_separation", 1.0)) < SEPARATE:
            notes.append(f"{method} has two centres that are {separation:.1e} of the codes' spread apart{where}: "
                         f"they are one. {advice.capitalize()}")  # fmt: skip
    return notes


def cluster(config: Settings, data: FeatureData, run: Run, device: torch.device) -> None:
    """Fit every method from every seed, and write scores, assignments and pictures into the run folder.

    The settings are those that `check_settings` let pass.

    Raises:
        UserError: features that are not finite or do not differ.
    """
    from evaluation.sheets import write_results

    check_values(data.values)
    rows, factors = fitted_rows(config, data), scored(config, data.factors)
    k = number_of_clusters(config, data.factors, len(rows))
    values = data.values.to(device)
    found: dict[str, list[Fitted]] = {method: [] for method in config.methods}
    for seed in range(config.seed, config.seed + config.seeds):
        fits = Fits(config, values, rows, k, seed, run, device)
        for method, results in found.items():
            results.append(fits(method))
        if seed == config.seed:
            first = fits
    with run.stage("scores", len(rows)):
        for method, results in found.items():
            for note in collapse_notes(method, results, rows, k):
                print(note)
            run.update(measured(method, results, data, rows, factors, k))
    with run.stage("pictures"):
        write_results(data, found, first, factors)


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
        record.summary()
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
