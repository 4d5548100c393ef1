"""Load the data that a run's configuration names."""

from typing import Any

from datamodules.factors import FactorTable
from training.build import build, device_of
from training.manifest import described_data
from training.run_folder import Run
from training.settings import Settings
from training.zero_shot_labels import labelled

__all__ = ["factor_lines", "load_data"]

MOST_VALUES = 6  # classes of a factor that are listed


def load_data(config: Settings, run: Run) -> Any:
    """Load the data of a run, with the factors that `prompts=` defines.

    Print how many rows are found and used, the notes of the data, and the skipped files.

    Returns:
        `ImageData`, `TextData` or `FeatureData`; for `data=pairs`, which only `model=mds` accepts, `PairData`.

    Raises:
        UserError: the data cannot be loaded, or are others than the run was started with.
    """
    with run.stage("data") as stage:
        data = labelled(config, build(config.data), run)
        stage.items = len(data.ids)
    found = len(data.ids) + len(data.skipped)
    print(f"{found:,} rows found, {len(data.ids):,} used, {len(data.skipped):,} skipped.")
    for note in [*data.notes, *(f"Skipped, cannot be read: {name}" for name in data.skipped)]:
        print(note)
    for line in factor_lines(data.factors) if hasattr(data, "factors") else []:
        print(line)
    run.start_manifest(described_data(data), config.seed, str(device_of(config)))
    return data


def factor_lines(table: FactorTable) -> list[str]:
    r"""Tabulate the factors with their kinds, values, numbers of rows and missing labels; no lines without factors.

    >>> import torch
    >>> from models.labels import Factor
    >>> table = FactorTable((Factor("hat", "binary", ("no", "yes")),), torch.tensor([[1.0], [0.0], [torch.nan]]))
    >>> print("\n".join(factor_lines(table)))
    factor  kind    values (rows)    missing
    hat     binary  no (1), yes (1)        1
    """
    rows = [("factor", "kind", "values (rows)", "missing")]
    for factor, column in zip(table.factors, table.values.unbind(1), strict=True):
        known = column[~column.isnan()]
        if factor.kind == "continuous":
            shown = (
                f"{known.min():g} to {known.max():g}, median {known.median():g} ({len(known)})" if len(known) else ""
            )
        else:
            counts = known.long().bincount(minlength=len(factor.values)).tolist()
            each = [f"{value} ({count})" for value, count in zip(factor.values, counts, strict=True)]
            shown = ", ".join(each[:MOST_VALUES])
            shown += f" and {len(each) - MOST_VALUES} more" if len(each) > MOST_VALUES else ""
        rows.append((factor.name, factor.kind, shown, str(len(column) - len(known))))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3].rjust(7)])
             for row in rows]  # fmt: skip
    return lines if table.factors else []
