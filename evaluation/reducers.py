"""Applies a reduction that a run has fitted to new rows:
python -m evaluation.reducers run=RUN method=isometric dim=32 rows=new.npy out=codes.npy [kind=text] [json=true].

Closed-form reductions and the Matryoshka map have every width up to the widest that was fitted; neural MDS and the
auto-encoder have those that they were trained for. Of pairs, new rows are texts (kind=text) or images (kind=image).
From Python: `reducer(load("runs/digits/mds").path, "pca", 8)(rows)`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import MISSING

from datamodules.cache import write_whole
from datamodules.vectors import vectors
from evaluation.command import aside, command, options
from evaluation.run import load
from models import check_choice
from training.reducers import KINDS, reducer

__all__ = ["Options", "main"]


@dataclass
class Options:
    run: str = MISSING
    method: str = MISSING
    dim: int = MISSING
    rows: str = MISSING
    out: str = MISSING
    kind: str = "text"
    json: bool = False


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    check_choice("kind", asked.kind, KINDS)
    with aside(asked.json):
        found = reducer(load(asked.run).path, asked.method, asked.dim)
    codes = found(vectors(asked.rows).values, KINDS.index(asked.kind)).numpy()
    with write_whole(Path(asked.out).expanduser()) as temporary, temporary.open("wb") as file:
        np.save(file, codes)
    if asked.json:
        print(json.dumps({"rows": len(codes), "columns": codes.shape[1], "file": asked.out}))
        return
    print(f"{len(codes)} rows of {codes.shape[1]} numbers in {asked.out}")


if __name__ == "__main__":
    command(main)
