"""Fit the clusterings of a run on the same features, score them, and write assignments and figures."""

import statistics
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from datamodules.factors import FactorTable, ImageData
from datamodules.features import FeatureData, check_values
from datamodules.splits import TEST
from datamodules.texts import TextData
from evaluation.clustering.results import write_results
from evaluation.clustering.scores import occupancy, scores, silhouette, stability, used_clusters
from models import UserError, check_choice, near_names
from training.build import build, device_of
from training.clusterers import ClustererFits, Fitted, clusterers, methods
from training.data import load_data
from training.features import features_of
from training.run_folder import Run
from training.settings import Settings

__all__ = ["check_settings", "cluster", "run_clustering", "scored"]

# See training.settings.of_pipeline; the constructors check theirs again, but only where they are called.
MINIMUM = {"seeds": 1, "turtle.heads": 1, "temi.heads": 1, "temi.hidden": 1, "temi.neighbours": 1}
SEPARATE = 0.01  # share of the codes' spread; centres that are closer have collapsed into one


def fitted_rows(config: Settings, data: ImageData | TextData | FeatureData) -> Int64[Tensor, " rows"]:
    """Select the rows that clusterings are fitted on; the others are only assigned to clusters."""
    return torch.arange(len(data.ids)) if config.fit_on == "all" else torch.nonzero(data.split != TEST).flatten()


def scored(config: Settings, factors: FactorTable) -> list[int]:
    """Select the factors that clusters are compared with: `label`, or all that have classes.

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


def number_of_clusters(config: Settings, factors: FactorTable, rows: int) -> int:
    """Return k of the configuration, or the number of classes of the only labelled factor.

    Labels are used for nothing else before the scores.

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


def check_settings(config: Settings, data: ImageData | TextData | FeatureData) -> None:
    """Check the settings against the data, before the features are computed.

    Raises:
        UserError: an unknown method, label, fit_on or head_input; a label without classes; a k that does not fit.
    """
    known = methods(config)
    unknown = [method for method in config.methods if method not in known]
    if unknown or not config.methods:
        got = repr(unknown[0]) if unknown else "none"
        near = near_names(unknown[0], known) if unknown else ""
        raise UserError(f"Expected methods among {', '.join(known)}, got {got}.{near}")
    for method in set(config.methods) & set(clusterers(config)):
        build(config[method], features=2, clusters=2)  # refuses its settings before any time is spent on others
    check_choice("fit_on", config.fit_on, ("train", "all"))
    check_choice("head_input", config.head_input, ("features", "codes"))
    scored(config, data.factors)
    k = number_of_clusters(config, data.factors, len(fitted_rows(config, data)))
    if config.k is None:
        print(f"k={k}, the number of classes of {data.factors.factors[scored(config, data.factors)[0]].name}.")


def summarised(prefix: str, per_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Summarise metrics over seeds: `prefix/metric` of one seed, `prefix/metric_mean` and `_sd` (sample) of several."""
    if len(per_seed) == 1:
        return {f"{prefix}/{key}": value for key, value in per_seed[0].items()}
    result: dict[str, float] = {}
    for key in per_seed[0]:
        values = [numbers[key] for numbers in per_seed if key in numbers]
        result |= {f"{prefix}/{key}_mean": statistics.mean(values), f"{prefix}/{key}_sd": statistics.stdev(values)}
    return result


def measured(method: str, fits: Sequence[Fitted], data: FeatureData, rows: Int64[Tensor, " rows"],
             factors: Sequence[int], k: int) -> dict[str, float]:  # fmt: skip
    """Measure one method on the rows that it was fitted on and, under `heldout/`, on the test split."""
    parts = {"": rows} if len(rows) == len(data.ids) else {"": rows, "heldout/": data.rows(TEST)}
    metrics: dict[str, float] = {}
    for prefix, part in parts.items():
        for factor in factors:
            labels = data.factors.values[part, factor]
            if labels.isnan().all():
                continue
            name = f"{prefix}{method}" + (f"/{data.factors.factors[factor].name}" if len(factors) > 1 else "")
            metrics |= summarised(name, [scores(labels, fit.clusters[part]) for fit in fits])
    shares = [occupancy(fit.clusters[rows], k) for fit in fits]
    details = [
        {"used_clusters": float(used_clusters(share)), "smallest_share": float(share.min()),
         "largest_share": float(share.max()), **fit.details}
        for share, fit in zip(shares, fits, strict=True)
    ]  # fmt: skip
    metrics |= summarised(method, details)
    quality = {"silhouette": silhouette(data.values[rows], fits[0].clusters[rows])}
    quality["stability"] = stability([fit.clusters[rows] for fit in fits])
    return metrics | {f"{method}/{key}": value for key, value in quality.items() if value is not None}


def collapse_notes(method: str, fits: Sequence[Fitted], rows: Tensor, k: int) -> list[str]:
    """Describe each fit with (nearly) empty clusters, or with centres that (nearly) coincide, in a line."""
    notes, advice = [], "try fewer clusters, another seed, a lower learning rate or another method."
    for i, fit in enumerate(fits):
        share, where = occupancy(fit.clusters[rows], k), f" (seed {i + 1} of {len(fits)})" if len(fits) > 1 else ""
        if (count := used_clusters(share)) < k:
            others = "empty" if count == (share > 0).sum() else "empty or below 1 % of an equal share"
            notes.append(f"{method} uses {count} of {k} clusters{where}, the others are {others}. Its scores compare "
                         f"fewer groups; {advice}")  # fmt: skip
        if (separation := fit.details.get("center_separation", 1.0)) < SEPARATE:
            notes.append(f"{method} has two centres that are {separation:.1e} of the codes' spread apart{where}: "
                         f"they coincide. {advice.capitalize()}")  # fmt: skip
    return notes


def cluster(config: Settings, data: FeatureData, run: Run, device: torch.device) -> None:
    """Fit every method from every seed, and write scores, assignments and figures into the run folder.

    The settings have passed `check_settings`.

    Raises:
        UserError: features that are not finite or do not differ.
    """
    check_values(data.values)
    rows, factors = fitted_rows(config, data), scored(config, data.factors)
    k = number_of_clusters(config, data.factors, len(rows))
    values = data.values.to(device)
    by_method: dict[str, list[Fitted]] = {method: [] for method in config.methods}
    for seed in range(config.seed, config.seed + config.seeds):
        fits = ClustererFits(config, values, rows, k, seed, run, device)
        for method, results in by_method.items():
            results.append(fits(method))
        if seed == config.seed:
            first = fits
    with run.stage("scores", len(rows)):
        for method, results in by_method.items():
            for note in collapse_notes(method, results, rows, k):
                print(note)
            run.update(measured(method, results, data, rows, factors, k))
    with run.stage("pictures"):
        write_results(data, by_method, first, factors)


def run_clustering(config: Settings, run: Run) -> None:
    """Cluster the features of a run's data by every method of `methods=`.

    Raises:
        UserError: see `check_settings` and `cluster`.
    """
    device, data = device_of(config), load_data(config, run)
    check_settings(config, data)
    cluster(config, features_of(config, data, run), run, device)
