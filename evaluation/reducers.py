"""Apply a fitted reduction of a run to new rows:
python -m evaluation.reducers run=RUN method=isometric dim=32 rows=new.npy out=codes.npy [kind=text] [json=true].

Closed-form reductions and the Matryoshka map have every number of dimensions up to the largest that was fitted; neural
MDS and the auto-encoder have those that they were trained for.
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
from evaluation.command import command, data_places, json_only, option, parse_options
from evaluation.run import load
from models import check_choice
from training.reducers import KINDS, reducer

__all__ = ["Options", "main"]


@dataclass
class Options:
    """Options, given as key=value."""

    run: str = option(MISSING, "run folder of model=mds, or a folder whose newest run is taken")
    method: str = option(MISSING, "method of the reduction, such as pca, isometric or matryoshka")
    dim: int = option(MISSING, "number of dimensions")
    rows: str = option(MISSING, "file of the new vectors: .npy, .npz, .csv, .parquet and the like")
    out: str = option(MISSING, "file to write the reduced vectors to, as .npy")
    kind: str = option("text", "of a run on pairs, the kind of the new vectors: text or image")
    json: bool = option(False, "print one JSON object: rows, columns, file")


def main(arguments: Sequence[str]) -> None:
    """Reduce the vectors of a file, and write the result to another."""
    arguments, places = data_places(arguments)
    options = parse_options(Options, arguments)
    check_choice("kind", options.kind, KINDS)
    with json_only(options.json):
        reduce = reducer(load(options.run, places=places).path, options.method, options.dim)
    codes = reduce(vectors(options.rows).values, KINDS.index(options.kind)).numpy()
    with write_whole(Path(options.out).expanduser()) as temporary, temporary.open("wb") as file:
        np.save(file, codes)
    if options.json:
        print(json.dumps({"rows": len(codes), "columns": codes.shape[1], "file": options.out}))
        return
    print(f"{len(codes)} rows of {codes.shape[1]} numbers in {options.out}")


if __name__ == "__main__":
    command(main, Options)
