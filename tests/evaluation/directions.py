"""Directions in the plane by their degrees, with an encoder of texts; real embeddings; what a command prints."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from evaluation.embeddings.source import Source, source

__all__ = ["LVIS", "Compass", "answer_of", "circle", "compass_source", "real"]

CLIP_TEXT = Path(__file__).parents[3] / "shared" / "data" / "clip_text"
real = pytest.mark.skipif(not CLIP_TEXT.is_dir(), reason=f"no real CLIP embeddings at {CLIP_TEXT}")
LVIS = [f"data.path={CLIP_TEXT / 'lvis.npy'}", f"data.names={CLIP_TEXT / 'lvis_names.csv'}"]


class Compass:
    """An encoder of texts: a number of degrees is a direction in the plane."""

    identity = {"name": "compass"}

    def embed_text(self, texts: list[str]) -> Tensor:
        angles = torch.deg2rad(torch.tensor([float(text) for text in texts]))
        return torch.stack([angles.cos(), angles.sin()], 1)


def circle(folder: Path, step: int = 10) -> list[str]:
    """Names of degrees, every `step`, row i at (1 + i / 100) times its direction; label: left or right half."""
    degrees = np.arange(0, 360, step)
    angles = np.deg2rad(degrees)
    lengths = 1 + np.arange(len(degrees)) / 100
    np.save(folder / "v.npy", (np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None]).astype(np.float32))
    half = np.where((degrees > 90) & (degrees < 270), "left", "right")
    pd.DataFrame({"name": [f"at{d}" for d in degrees], "half": half, "turn": degrees / 7}).to_csv(folder / "v.csv")
    return ["data=vectors", f"data.path={folder / 'v.npy'}", f"data.names={folder / 'v.csv'}",
            f"data.labels={folder / 'v.csv'}"]  # fmt: skip


def compass_source(folder: Path) -> Source:
    """The circle with the compass as its encoder."""
    found = source(*circle(folder))
    found.encoder, found.config.encoder = Compass(), OmegaConf.create({"_target_": "compass"})
    return found


def answer_of(command: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """What a command prints with json=true."""
    capsys.readouterr()
    command([*arguments, "json=true"])
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, "one JSON object and nothing else"
    return json.loads(printed)
