"""Measure how embeddings compose of properties: python -m evaluation.properties encoder=clip template=... values=...

The embeddings of every combination of properties come from texts or from labelled rows:

    'template="a {colour} {object}"' 'values={colour:[red,blue],object:[car,cup]}'    encoder=clip or sentence
    factors=[colour,object]                                                           run=RUN or data=...

Of each property the command measures how consistent its difference vectors are, and of all how well ideal words (Trager
et al. 2023, https://arxiv.org/abs/2302.14383) explain the embeddings, which are taken at unit length.
"""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from evaluation.command import command, json_only
from evaluation.embeddings.ideal_words import compositionality, consistency
from evaluation.embeddings.properties import Options, draw, grid_of
from evaluation.embeddings.source import SourceOptions, options_and_source
from training.files import csv_text, jsonable, write_file

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Measure the consistency and the compositionality of the properties, and print them."""
    options, source = options_and_source(Options, arguments, "embeddings/properties")
    with json_only(options.json):
        grid = grid_of(source, options)
        name = options.property or next(iter(grid.values))
        grid.axis(name)
        changes = pd.concat([consistency(grid, each) for each in grid.values], ignore_index=True)
        scores = compositionality(grid)
        write_file(source.folder / "changes.csv", csv_text(changes))
        files = [source.folder / "changes.csv", *draw(source.folder, grid, name, options.seed)]
    if options.json:
        answer: dict[str, Any] = {"changes": changes.to_dict("records"), "compositionality": scores}
        print(json.dumps(jsonable(answer | {"files": [str(file) for file in files]})))
        return
    print(changes.round(3).to_string(index=False), "\n")
    print("\n".join(f"{key:<24}{value:.3f}" for key, value in scores.items()))
    for file in files:
        print(f"Open: {file}")


if __name__ == "__main__":
    command(main, Options, SourceOptions)
