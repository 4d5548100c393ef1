"""Looks around in embeddings: python -m evaluation.explore run=RUN ... or data=... [encoder=...] ...

what, one or several of them; a name is that of a row, an image file, or a text that the encoder embeds:
  query=cat query=[cat,a.jpg]  its k=10 nearest and farthest rows
  pairs=[[cat,dog],[cat,car]]  how near two are to each other, with map=tsne also on a map
  classes=COLUMN               each two classes: mean and sd over at most sample=2000 pairs of rows
  heatmap=[cat,dog,car]        all with all; heatmap=10: of so many rows, drawn at random
  cluster=30                   of query= so many nearest and farthest rows as a 3-D map
  graph=3                      every row and its 3 nearest as a net, of the sub-cluster where that is asked for
  export=FILE.parquet          or .csv: all rows with their name, split, labels and embedding_0, embedding_1, ...
how:
  metric=cosine                or euclidean: what is near
  map=tsne                     or umap, pca, of what is shown and others up to n=2000 rows; dimensions=2 or 3;
                               perplexity=30 of t-SNE, neighbours=15 of UMAP
  colour=COLUMN                split, or a label of the rows (default: the side of a sub-cluster, the first label, or
                               of a net without labels the edges at a row)
  seed=0; out=embeddings/explore, a folder for what is drawn (of a run: its figures); json=true prints one JSON object
"""

from collections.abc import Sequence
from pathlib import Path

from evaluation.command import aside, command
from evaluation.embeddings.answer import Answer
from evaluation.embeddings.explore import Options, answer_maps, answer_query, answer_tables, export
from evaluation.embeddings.source import asked_source
from models import UserError

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    asked, source = asked_source(Options, arguments, "embeddings/explore")
    if all(value is None for value in (asked.query, asked.pairs, asked.classes, asked.heatmap, asked.graph,
                                     asked.export)):  # fmt: skip
        raise UserError("Expected query=, pairs=, classes=, heatmap=, graph= or export=, got none: --help tells of "
                        "each.")  # fmt: skip
    answer = Answer({}, [], [])
    with aside(asked.json):
        if asked.query is not None:
            answer_query(source, asked, answer)
        answer_tables(source, asked, answer)
        answer_maps(source, asked, answer)
        if asked.export is not None:
            answer.files.append(export(source, Path(asked.export).expanduser()))
    answer.show(asked.json)


if __name__ == "__main__":
    command(main)
