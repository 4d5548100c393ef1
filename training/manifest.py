"""Describe a run: versions, sources, machine, encoder, data, and the names of its factors' values."""

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from datamodules.factors import ImageData
from datamodules.features import FeatureData
from datamodules.splits import TEST, TRAIN, VALIDATION
from datamodules.texts import TextData
from models.labels import factor_statistics

__all__ = ["describe", "manifest"]

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
        factors.append({**factor._asdict(), "low": statistics.low[i], "high": statistics.high[i], **ends})
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
    }
