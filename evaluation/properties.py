"""What changes when one property of a thing changes: python -m evaluation.properties encoder=clip ...

of texts:
  'template="a {colour} {object}"' 'values={colour:[red,blue],object:[car,cup]}'
                             each of the objects in each of the colours, embedded (encoder=clip or sentence)
  'words=["a {} thing","a {}"]'  how a single word of each property is told, for the score of real words
or of rows:
  factors=[colour,object]    labels of run=RUN or data=...; the mean of the rows with the same labels
and:
  property=colour            whose differences are drawn (default: the first)
  seed=0; out=embeddings/properties, a folder for tables and pictures (of a run: its figures); json=true

Embeddings are taken at unit length. Ideal words: Trager et al. 2023, https://arxiv.org/abs/2302.14383.
"""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from evaluation.command import aside, command
from evaluation.embeddings.ideal_words import compositionality, consistency
from evaluation.embeddings.properties import Options, asked_grid, draw
from evaluation.embeddings.source import asked_source
from training.files import jsonable, write_file

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    asked, source = asked_source(Options, arguments, "embeddings/properties")
    with aside(asked.json):
        grid = asked_grid(source, asked)
        name = asked.property or next(iter(grid.values))
        grid.axis(name)
        changes = pd.concat([consistency(grid, each) for each in grid.values], ignore_index=True)
        scores = compositionality(grid)
        write_file(source.folder / "changes.csv", changes.to_csv(index=False))
        files = [source.folder / "changes.csv", *draw(source.folder, grid, name, asked.seed)]
    if asked.json:
        answer: dict[str, Any] = {"changes": changes.to_dict("records"), "compositionality": scores}
        print(json.dumps(jsonable(answer | {"files": [str(file) for file in files]})))
        return
    print(changes.round(3).to_string(index=False), "\n")
    print("\n".join(f"{key:<24}{value:.3f}" for key, value in scores.items()))
    for file in files:
        print(f"Open: {file}")


if __name__ == "__main__":
    command(main)
