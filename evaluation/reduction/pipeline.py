"""Fit reductions of a run's features at every dimension, measure retrieval, and write table and figure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from datamodules.captions import PairData, extract_pairs
from datamodules.checksums import write_recorded
from datamodules.features import FeatureData, check_values
from evaluation.clustering.pipeline import scored
from evaluation.reduction.figure import draw_reductions
from evaluation.reduction.metrics import bootstrap, mcnemar
from evaluation.reduction.queries import KS, Hits, check_enough, pair_retrieval, row_retrieval, rows_of
from models import check_choice
from training.build import device_of
from training.data import load_data
from training.features import features_of, text_encoder
from training.files import csv_text, write_file
from training.manifest import described_data
from training.reducers import METHODS, ReducerFits, check_dims, check_methods, metric_of, name_of
from training.run_files import read_run_table
from training.run_folder import Run
from training.settings import Settings

__all__ = ["compare", "measured", "run_reduction", "write_results"]

MINIMUM = {"trainer.mds.batch_size": 2, "trainer.matryoshka.batch_size": 2}  # see training.settings.of_pipeline
DRAWS = 1000
BAND = (2.5, 97.5)  # percent
KEPT = 0.9  # share of the recall@1 of the full embeddings; the headline is the dimensions a method needs for it
COLUMNS = ["method", "dim", "direction", "r1", "r5", "r10", "correct", "n", "r1_low", "r1_high", "against", "p",
           "difference_low", "difference_high"]  # fmt: skip
SAME = ("centred_pca", "cross_modal_svd")  # of one kind of rows: PCA, with and without its mean


def table_of(found: Mapping[tuple[str, int], Mapping[str, Hits]], groups: Mapping[str, Tensor], against: str,
             seed: int) -> pd.DataFrame:  # fmt: skip
    """Tabulate the hits of every method and number of dimensions as retrieval.csv, see `evaluation.retrieval`."""
    keys, rows = list(found), []
    for direction in groups:
        each = [found[key][direction].cpu().numpy() for key in keys]
        top = np.stack([one[:, 0] for one in each], 1)
        group = groups[direction].numpy()
        drawn = bootstrap(top, group, DRAWS, seed)
        for column, (method, dim) in enumerate(keys):
            low, high = np.percentile(drawn[:, column], BAND)
            row = {"method": method, "dim": dim, "direction": direction,
                   **{f"r{k}": each[column][:, i].mean() for i, k in enumerate(KS)},
                   "correct": int(top[:, column].sum()), "n": len(top), "r1_low": low, "r1_high": high}  # fmt: skip
            if (against, dim) in found and method not in (against, "full"):
                other = keys.index((against, dim))
                ends = np.percentile(drawn[:, column] - drawn[:, other], BAND)
                row |= {"against": against, "p": mcnemar(top[:, column] > 0, top[:, other] > 0, group),
                        "difference_low": ends[0], "difference_high": ends[1]}  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def compared_methods(config: Settings, paired: bool) -> tuple[list[str], str]:
    """List the methods in the order in which they are fitted, and the one that the others are compared with.

    Raises:
        UserError: an unknown method.
    """
    methods = config.methods
    if methods is None:
        methods = [method for method in METHODS if paired or method not in SAME]
    methods = [methods] if isinstance(methods, str) else list(methods)
    check_methods(methods)
    against = config.against or ("centred_pca" if paired else "pca")
    check_methods([*methods, against])
    return list(dict.fromkeys([*methods, against])), against


def check_settings(config: Settings, data: Any) -> None:
    """Check the settings against the data, before embeddings are computed, whose width is not yet known.

    Raises:
        UserError: unknown methods, or an unknown metric, label or fit_on; widths below 1; too few rows.
    """
    check_choice("fit_on", config.fit_on, ("train", "all"))
    compared_methods(config, isinstance(data, PairData))
    metric_of(config, 2 if isinstance(data, PairData) else 1)
    if config.dims is not None:
        check_dims(config.dims, None)
    if not isinstance(data, PairData):
        scored(config, data.factors)
        fitted, queries = rows_of(data.split, config.fit_on)
        check_enough(len(fitted), len(fitted), len(queries))


def measured(config: Settings, data: FeatureData | PairData, run: Run, device: torch.device) -> pd.DataFrame:
    """Fit the reductions that are missing, and measure the retrieval of every method at every number of dimensions.

    Raises:
        UserError: widths that the embeddings do not have; rows that are not finite or too few; see `check_settings`.
    """
    sides = [data.texts, data.images] if isinstance(data, PairData) else [data]
    methods, against = compared_methods(config, isinstance(data, PairData))
    for side in sides:
        check_values(side.values)  # type: ignore[union-attr]  # FeatureData
    task = pair_retrieval(data, config, device) if isinstance(data, PairData) else row_retrieval(data, config, device)
    features = task.x.shape[1]
    dims = check_dims(config.dims, features)
    fits = ReducerFits(config, task.x, task.y, task.image, dims, run, device)
    fits.check(methods)
    found = {("full", features): task.hits(lambda rows, _: rows, fits.metric)}
    for method in methods:
        for dim in dims:
            reducer = fits(method, dim)
            found[method, dim] = task.hits(reducer, reducer.metric)
    with run.stage("scores"):
        return table_of(found, task.groups, against, config.seed)


def headline(table: pd.DataFrame) -> dict[str, float]:
    """Return recall@1 of the full embeddings, and of each method the fewest dimensions that keep 90 % of it, if any."""
    found: dict[str, float] = {}
    for direction, rows in table.groupby("direction", sort=False):
        full = float(rows[rows["method"] == "full"]["r1"].iloc[0])
        found[f"retrieval/{direction}/full_r1"] = full
        for method, own in rows[(rows["method"] != "full") & (rows["r1"] >= KEPT * full)].groupby("method", sort=False):
            found[f"retrieval/{direction}/{method}_dims_for_90"] = float(own["dim"].min())
    return found


def write_results(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Write retrieval.csv, keeping rows of other methods and widths, the figure and the headline metrics."""
    file = run.path / "retrieval.csv"
    if file.is_file():
        table = pd.concat([read_run_table(file, ["method", "dim", "direction"]), table], ignore_index=True)
        table = table.drop_duplicates(["method", "dim", "direction"], keep="last")
    places = {method: place for place, method in enumerate(["full", *METHODS])}
    table = table.sort_values(["direction", "method", "dim"], ascending=[False, True, True], ignore_index=True,
                              key=lambda column: column.map(places) if column.name == "method" else column)  # fmt: skip
    write_file(file, csv_text(table))
    draw_reductions(table, run.path / "figures" / "retrieval.png")
    run.update(headline(table))
    for direction, rows in table.groupby("direction", sort=False):
        print(f"\n{direction}: r1 by dimensions")
        print(rows.pivot(index="method", columns="dim", values="r1").to_string(float_format="%.3f", na_rep=""))
    return table


def pair_features(config: Settings, data: PairData, run: Run, device: torch.device) -> PairData:
    """Encode the texts and images of pairs by the frozen encoder, unless they are vectors; write the manifest.

    Raises:
        UserError: an encoder that does not read texts and images.
    """
    identity, read = None, data.fingerprint  # that of files, which loading a run compares; embeddings have another
    with run.stage("encode", len(data.ids)):
        if not isinstance(data.texts, FeatureData):
            encoder = text_encoder(config)
            data, identity = extract_pairs(data, encoder, config.cache_dir, device), encoder.identity
    assert isinstance(data.texts, FeatureData)
    run.manifest(replace(described_data(data), fingerprint=read), identity, config.seed, str(device))
    return data


def compare(config: Settings, data: Any, run: Run, device: torch.device) -> pd.DataFrame:
    """Run the stages of model=mds: embeddings, reductions, retrieval.csv and its figure.

    Raises:
        UserError: see `measured`; an encoder that does not read the data.
    """
    check_settings(config, data)
    paired = isinstance(data, PairData)
    rows: Any = pair_features(config, data, run, device) if paired else features_of(config, data, run)
    table = write_results(measured(config, rows, run, device), run)
    last = run.path / "checkpoints" / "last.ckpt"
    if not last.is_file():  # a run has many maps: the checkpoint is the last one in the order of the settings
        methods, _ = compared_methods(config, paired)
        side: Any = rows.texts if isinstance(rows, PairData) else rows
        width = side.values.shape[1]
        newest = last.with_name(f"{name_of(methods[-1], check_dims(config.dims, width)[-1])}.ckpt")
        write_recorded(run.path, "checkpoints/last.ckpt", newest.read_bytes())
    return table


def run_reduction(config: Settings, run: Run) -> None:
    """Fit reductions of a run's features at every dimension and compare their retrieval.

    Raises:
        UserError: see `compare`.
    """
    device = device_of(config)
    compare(config, load_data(config, run), run, device)
