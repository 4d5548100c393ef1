"""Describe a run: versions, sources, machine, encoder, data, and the names of its factors' values."""

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from datamodules.cache import fingerprint
from datamodules.captions import PairData
from datamodules.factors import FactorTable, ImageData
from datamodules.features import FeatureData
from datamodules.splits import TEST, TRAIN, VALIDATION
from datamodules.texts import TextData
from models.labels import factor_statistics
from training.files import jsonable

__all__ = ["describe", "described_data", "difference", "manifest"]

ROOT = Path(__file__).parents[1]
TOOLS = ("test", "dev")  # extras that no run imports
BENEATH = ("timm", "tokenizers", "torchmetrics")  # dependencies of dependencies that may change a number


def manifest(
    data: ImageData | TextData | FeatureData,
    encoder: Mapping[str, str | int | float | bool] | None,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Return the content of `manifest.json`; `encoder` is the encoder's `identity`."""
    return {
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(sys.argv),
        "seed": seed,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "cpu_cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **versions()},
        "git": git_state(),
        "encoder": dict(encoder) if encoder else None,
        "data": describe(data),
    }


def packages() -> list[str]:
    """List the dependencies and extras in pyproject.toml that a run may import."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [needed for extra, needed in project["optional-dependencies"].items() if extra not in TOOLS]
    needed = [*project["dependencies"], *(line for lines in extras for line in lines), *BENEATH]
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed]


def versions() -> dict[str, str]:
    """Return the installed version of every package that a run may import."""
    found = {}
    for name in packages():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # an extra that is not installed
            continue
    return found


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def git_state() -> dict[str, str | bool] | None:
    """Return the commit of the sources and whether they differ from it; None outside of a git checkout."""
    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return None  # the sources lie inside of another repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def describe(data: ImageData | TextData | FeatureData) -> dict[str, Any]:
    """Describe a data set; each factor has its lowest and highest label and their .15 and .85 training quantiles."""
    values = data.factors.values
    statistics = factor_statistics(values[data.rows(TRAIN)])
    factors: list[dict[str, Any]] = []
    for i, factor in enumerate(data.factors.factors):
        known = values[~values[:, i].isnan(), i]
        ends = {"lowest": known.min(), "highest": known.max()} if len(known) else {}
        factors.append({**factor._asdict(), "low": statistics.low[i], "high": statistics.high[i], **ends,
                        "sha256": column_digest(data.factors, i)})  # fmt: skip
    images = None if isinstance(data, TextData) else data.images
    shape = {"size": images.shape[-1], "channels": images.shape[1]} if images is not None else {}
    if isinstance(data, FeatureData):
        shape["features"] = data.values.shape[1]
    parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        **shape,
        "splits": {name: len(data.rows(part)) for name, part in parts.items()},
        "factors": factors,
        "notes": data.notes,
        "skipped": data.skipped,
        "people": people_digest(data),
    }


def column_digest(table: FactorTable, column: int) -> str:
    """Return the SHA-256 of a factor's labels: its kind, the names of its values, its numbers and their confidence."""
    factor, sure = table.factors[column], None if table.confidence is None else table.confidence[:, column]
    return fingerprint(factor.kind, list(factor.values), table.values[:, column], sure)


def people_digest(data: ImageData | TextData | FeatureData) -> str | None:
    people = data.people if isinstance(data, ImageData) else None
    return None if people is None else fingerprint(people)


def described_data(data: ImageData | TextData | FeatureData | PairData) -> ImageData | TextData | FeatureData:
    """Return the data that a manifest describes: of pairs, their texts with the fingerprint of both sides."""
    if not isinstance(data, PairData):
        return data
    return replace(data.texts, fingerprint=data.fingerprint, notes=data.notes, skipped=data.skipped)


def difference(
    recorded: Mapping[str, Any], data: ImageData | TextData | FeatureData, computed: Collection[str] = ()
) -> str:
    """Name what differs between the data in a manifest and these data: rows, labels or people; empty if nothing does.

    `computed` are factors that the run has labelled itself. A manifest of an earlier version has no digests of labels,
    which are then not compared. Its fingerprint of image files depends on their times: where that alone differs, images
    of equal number, split and factors are taken for the same, and a line says so.
    """
    before, now = recorded.get("fingerprint"), data.fingerprint
    earlier_version = "people" not in recorded
    if before is not None and before != now:
        if not (earlier_version and isinstance(data, ImageData) and alike(recorded, data)):
            return f"rows (fingerprint {str(now)[:12]}, there {str(before)[:12]})"
        print("The run is of an earlier version, which has no digest of its images: their number and labels agree.")
    if earlier_version:
        return ""
    columns = {factor.name: column_digest(data.factors, i) for i, factor in enumerate(data.factors.factors)}
    known = {factor["name"]: factor.get("sha256") for factor in recorded.get("factors", [])}
    changed = [name for name in {**known, **columns} if known.get(name) != columns.get(name) and name not in computed]
    if changed:
        return f"labels of {', '.join(changed)}"
    return "people" if recorded["people"] != people_digest(data) else ""


def alike(recorded: Mapping[str, Any], data: ImageData) -> bool:
    """Tell whether images agree with the description in a manifest, as far as one of an earlier version goes."""
    now = json.loads(json.dumps(jsonable(describe(data))))
    kept = ("name", "low", "high", "lowest", "highest")
    factors = [[{key: f.get(key) for key in kept} for f in part.get("factors", [])] for part in (recorded, now)]
    return factors[0] == factors[1] and all(recorded.get(key) == now[key] for key in ("name", "size", "splits"))
