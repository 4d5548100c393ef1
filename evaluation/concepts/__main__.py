"""Decompose embeddings into sparse concepts: python -m evaluation.concepts run=RUN or data=... vocabulary=FILE.

The concepts of a run of model=sae are the units of its sparse auto-encoder, named by the nearest texts of the
vocabulary. For any other data they are the texts of the vocabulary themselves, weighted by SpLiCE.

The command writes concepts.csv, a line per concept; concepts.parquet, the concepts of each row; figures/concepts.png,
and for images a contact sheet. With query= it prints the concepts of one row, new text or image file instead.
"""

import json
from collections.abc import Sequence

from evaluation.command import command, json_only
from evaluation.concepts.pipeline import Options, answer
from evaluation.embeddings.source import SourceOptions, options_and_source
from training.files import jsonable

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Decompose the embeddings, and print the commonest concepts or those of the query."""
    options, source = options_and_source(Options, arguments)
    with json_only(options.json):
        result, table = answer(source, options)
    if options.json:
        print(json.dumps(jsonable(result)))
        return
    print(table.to_string(index=False, float_format="{:.3f}".format, max_colwidth=60))
    if "files" in result:
        numbers = {key: value for key, value in result.items() if isinstance(value, float)}
        print("\n", *(f"{key}: {value:.4g}\n" for key, value in numbers.items()), sep="")
        print(f"Open: {result['files']}/figures/concepts.png\n      {result['files']}/concepts.csv")


if __name__ == "__main__":
    command(main, Options, SourceOptions)
