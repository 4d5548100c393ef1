"""Explore embeddings: python -m evaluation.explore run=RUN ... or data=... [encoder=...] ...

Choose one or several of query=, pairs=, classes=, heatmap=, graph= and export=. A name is the name of a row, an image
file, or a text, which the encoder embeds:

    query=cat                      nearest and farthest rows of a query; query=[cat,a.jpg] of several
    pairs=[[cat,dog],[cat,car]]    similarity of two embeddings
    classes=COLUMN                 similarity within and between classes
    heatmap=[cat,dog,car]          similarity matrix
    query=cat cluster=30           3-D map of the nearest and farthest rows
    graph=3                        k-NN graph
"""

from collections.abc import Sequence
from pathlib import Path

from evaluation.command import command, json_only
from evaluation.embeddings.answer import Answer
from evaluation.embeddings.explore import Options, answer_maps, answer_query, answer_tables, export
from evaluation.embeddings.source import SourceOptions, options_and_source
from models import UserError

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Answer the questions that the options choose."""
    options, source = options_and_source(Options, arguments, "embeddings/explore")
    if all(value is None for value in (options.query, options.pairs, options.classes, options.heatmap, options.graph,
                                     options.export)):  # fmt: skip
        raise UserError("Expected query=, pairs=, classes=, heatmap=, graph= or export=, got none: --help describes "
                        "each.")  # fmt: skip
    answer = Answer({}, [], [])
    with json_only(options.json):
        if options.query is not None:
            answer_query(source, options, answer)
        answer_tables(source, options, answer)
        answer_maps(source, options, answer)
        if options.export is not None:
            answer.files.append(export(source, Path(options.export).expanduser()))
    answer.show(options.json)


if __name__ == "__main__":
    command(main, Options, SourceOptions)
