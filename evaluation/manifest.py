"""What a run was made of: versions, sources, machine, encoder, data; and what the values of its factors are called."""

import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from datamodules.factors import TEST, TRAIN, VALIDATION, Factor, ImageData
from datamodules.features import FeatureData
from datamodules.texts import TextData
from evaluation.metrics import factor_statistics
from models import UserError

__all__ = ["describe", "label", "manifest"]

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "torch", "torchvision", "pytorch-lightning", "FrEIA", "hydra-core", "numpy", "pandas", "scikit-learn", "pillow",
    "matplotlib", "tensorboard", "open_clip_torch", "timm", "openTSNE", "umap-learn", "diffusers",
)  # fmt: skip


def manifest(
    data: ImageData | TextData | FeatureData,
    encoder: Mapping[str, str | int | float | bool] | None,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """The content of `manifest.json`; `encoder` is the encoder's `identity`."""
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


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # of an extra
            continue
    return found


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def git_state() -> dict[str, str | bool] | None:
    """The sources' commit and whether they differ from it; None where they are no git checkout."""
    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return None  # unpacked inside somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def describe(data: ImageData | TextData | FeatureData) -> dict[str, Any]:
    """The data set. Each factor comes with the ends of its labels and their .15 and .85 training quantiles."""
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


def label(factor: Factor, value: str | int | float, described: Mapping[str, Any]) -> float:
    """A wanted value, a number or one of the factor's own words, in the table's unit.

    `described` is the factor in the manifest: the words of a continuous factor mean its `low` and its `high`, and its
    values lie between `lowest` and `highest`.

    Raises:
        UserError: nothing that the factor has.
    """
    words = [word.lower() for word in factor.values]
    number: Any = value
    if isinstance(value, str) and value.lower() in words:
        place = words.index(value.lower())
        number = described.get(("low", "high")[place]) if factor.kind == "continuous" else place
    try:
        number = float(math.nan if number is None else number)
    except (TypeError, ValueError):
        number = math.nan
    if factor.kind == "continuous":
        lowest, highest = described.get("lowest", -math.inf), described.get("highest", math.inf)
        wanted = f"a number between {lowest:g} ({factor.values[0]}) and {highest:g} ({factor.values[1]})"
        fits = math.isfinite(number) and lowest <= number <= highest
    else:
        wanted = " or ".join(f"{place} ({word})" for place, word in enumerate(factor.values))
        fits = number in range(len(factor.values))
    if not fits:
        raise UserError(f"Expected a value of {factor.name}, {wanted}, got {value!r}: choose one of these.")
    return number
