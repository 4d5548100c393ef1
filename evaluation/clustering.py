"""Clusterings of a run's features, scored: python -m evaluation.clustering run=RUN [seeds=10] [methods=[kmeans,dec]].

Fits what is missing and prints the table of every method: agreement with the labels (ami, ari, fmi, nmi, accuracy) on
the rows it was fitted on and on held-out ones, mean ± sd over seeds. Without labels: silhouette, and how far the seeds
agree. images=[FILE,...] or a folder asks the run's model which cluster new images are in, ks=[2,3,4] suggests a number
of clusters, json=true prints one JSON object.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from omegaconf import MISSING, OmegaConf
from torch import Tensor

from datamodules.factors import TEST, FactorTable, near_names
from datamodules.features import FeatureData
from datamodules.images import write_whole
from evaluation.agreement import occupancy, prediction_strength, scores, silhouette, stability
from evaluation.clusterers import METHODS, Fits, Fitted
from evaluation.command import aside, command, options
from evaluation.files import write_file
from evaluation.record import Run
from evaluation.report import write_report
from evaluation.run import LoadedRun, load
from evaluation.settings import Settings
from models import UserError

__all__ = ["Options", "cluster", "main", "scores"]

STRONG = 0.8  # prediction strength above which Tibshirani and Walther take k groups to be there


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
        print(f"k={k}, as {factors.factors[discrete[0]].name} has so many classes.")
    if type(k) is not int or not 2 <= k <= rows:
        raise UserError(f"Expected k between 2 and {rows}, the rows to cluster, got {k!r}: choose another k=.")
    return k


def scored(config: Settings, factors: FactorTable) -> list[int]:
    """The factors that clusters are compared with: `label`, or all that have classes."""
    if config.label is not None:
        return [factors.index(config.label)]
    return [i for i, factor in enumerate(factors.factors) if factor.kind != "continuous"]


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
        {"used_clusters": float((share > 0).sum()), "smallest_share": float(share.min()),
         "largest_share": float(share.max()), **fit.details}
        for share, fit in zip(shares, fits, strict=True)
    ]  # fmt: skip
    found |= summarised(method, details)
    quality = {"silhouette": silhouette(data.values[rows], fits[0].clusters[rows])}
    quality["stability"] = stability([fit.clusters[rows] for fit in fits])
    return found | {f"{method}/{key}": value for key, value in quality.items() if value is not None}


def collapse_notes(method: str, fits: Sequence[Fitted], rows: Tensor, k: int) -> list[str]:
    """A line for each fit that left clusters empty."""
    used = [int((occupancy(fit.clusters[rows], k) > 0).sum()) for fit in fits]
    return [
        f"{method} uses {count} of {k} clusters{f' (seed {i + 1} of {len(fits)})' if len(fits) > 1 else ''}, the "
        "others are empty. Its scores compare fewer groups; try fewer clusters, another seed or another method."
        for i, count in enumerate(used)
        if count < k
    ]


def assignments(data: FeatureData, found: Mapping[str, Sequence[Fitted]]) -> pd.DataFrame:
    """id, split, labels, and of each method the first seed's cluster and its certainty."""
    table: dict[str, Any] = {"id": data.ids, "split": data.split.numpy()}
    for i, factor in enumerate(data.factors.factors):
        table[f"label/{factor.name}"] = data.factors.values[:, i].numpy()
    for method, fits in found.items():
        table |= {method: fits[0].clusters.numpy(), f"{method}/certainty": fits[0].certainty.numpy()}
    return pd.DataFrame(table)


def cluster(config: Settings, data: FeatureData, run: Run, device: torch.device) -> None:
    """Fit every method from every seed, and write scores, assignments and pictures into the run folder.

    Raises:
        UserError: a k that does not fit the rows, an unknown method or label, features that are not finite or do not
            differ.
    """
    unknown = [method for method in config.methods if method not in METHODS]
    if unknown or not config.methods:
        got = repr(unknown[0]) if unknown else "none"
        near = near_names(unknown[0], METHODS) if unknown else ""
        raise UserError(f"Expected methods among {', '.join(METHODS)}, got {got}.{near}")
    check_values(data.values)
    rows = torch.arange(len(data.ids)) if config.fit_on == "all" else torch.nonzero(data.split != TEST).flatten()
    k, factors = number_of_clusters(config, data.factors, len(rows)), scored(config, data.factors)
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
    write_results(config, data, run, found, first)


def write_results(config: Settings, data: FeatureData, run: Run, found: Mapping[str, Sequence[Fitted]],
                  first: Fits) -> None:  # fmt: skip
    """Assignments, beside those that the run has of other methods; codes; labels and pictures of its model."""
    from evaluation.sheets import draw_clusters

    file, main = run.path / "assignments.parquet", config.model.name
    with run.stage("pictures"):
        table = assignments(data, found)
        if file.is_file():
            earlier = pd.read_parquet(file)
            table = pd.concat([table, earlier[[name for name in earlier if name not in table]]], axis="columns")
        with write_whole(file) as temporary:
            table.to_parquet(temporary)
        if "codes" in vars(first):
            with write_whole(run.path / "codes.npy") as temporary, temporary.open("wb") as codes:
                np.save(codes, first.codes.cpu().numpy())
        if main in found:
            own = table[["id", "split", main, f"{main}/certainty"]]
            own = own.set_axis(["id", "split", "cluster", "certainty"], axis="columns")
            write_file(run.path / "labels.csv", own.to_csv(index=False))
            factors = scored(config, data.factors)
            draw_clusters(run.path / "figures", data, found[main][0], first.rows, first.k, factors)


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
    """The cluster of each image file, or of each in a folder, by the run's own model; also as `predictions.csv`."""
    from datamodules.folder import find_images

    names = [Path(name).expanduser() for name in asked.images or ()]
    files = [file for name in names for file in (find_images(name) if name.is_dir() else [name])]
    features = run.features(files)
    with torch.inference_mode():
        certainty, clusters = run.clusterer.assign(features).max(1)
    table = pd.DataFrame(
        {"image": [str(file) for file in files], "cluster": clusters.cpu(), "certainty": certainty.cpu()}
    )
    write_file(run.path / "predictions.csv", table.to_csv(index=False))
    return table.to_dict("records"), table.to_string(index=False)


def suggest(run: LoadedRun, asked: Options) -> tuple[Any, str]:
    """A number of clusters by prediction strength, on the rows that are not for testing."""
    values = run.vectors.values[run.vectors.split != TEST]
    for k in asked.ks:
        if not 2 <= k <= len(values) // 4:
            raise UserError(f"Expected ks= between 2 and {len(values) // 4}, a quarter of the rows, got {k}.")
    strengths = {k: prediction_strength(values, k, run.config.seed) for k in asked.ks}
    best = suggestion(strengths)
    lines = [f"k={k}: prediction strength {strength:.3f}" for k, strength in strengths.items()]
    lines.append(f"Suggested: k={best}, the largest of strength {STRONG} or more, or else the strongest.")
    return {"suggested": best, "prediction_strength": strengths}, "\n".join(lines)


def extend(run: LoadedRun, asked: Options) -> tuple[Any, str]:
    """More seeds or methods of the run, into its own folder."""
    config, record = asked_of(run.config, asked), Run(run.path, run.config)
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
        answer, shown = (
            predict(run, asked) if asked.images is not None else (suggest if asked.ks else extend)(run, asked)
        )
    print(json.dumps(answer) if asked.json else shown)


if __name__ == "__main__":
    command(main)
