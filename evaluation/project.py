"""Maps embeddings, and new ones onto the same map: python -m evaluation.project run=RUN or data=... [encoder=...] ...

how:
  method=tsne                  or umap, pca; dimensions=2 or 3; metric=cosine or euclidean; seed=0
  n=5000                       rows drawn at random (default: as many as the method can take)
  perplexity=30 neighbours=15  of t-SNE; of UMAP
what is new:
  'prompts=[a dog,"a, cat"]'   texts or image files, placed on the map of the others
  reducer=FILE                 no new map: the data's rows are placed on the one that was saved in reducer.npz
what for:
  colour=COLUMN                split, or a label of the rows (default: what is new, or the first label)
  out=embeddings/project       a folder for the page, the picture, points.parquet, the projector and reducer.npz
  json=true                    prints one JSON object: files, places of what is new, how far the map can be trusted
"""

import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.command import aside, command
from evaluation.embeddings.project import OF_A_MAP, Options, colour_of, fit_map, place_rows, write_map
from evaluation.embeddings.rows import column, some_rows
from evaluation.embeddings.source import asked_source
from evaluation.maps.export import atlas_command, check_columns
from evaluation.maps.placement import load_reducer
from models import UserError
from training.files import jsonable

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    asked, source = asked_source(Options, arguments, "embeddings/project")
    if asked.reducer is not None and asked.prompts is not None:
        raise UserError("Expected reducer= or prompts=, got both: give the prompts as data=texts to place them.")
    if asked.reducer is not None and (fixed := [a for a in arguments if a.split("=")[0] in OF_A_MAP]):
        raise UserError(f"Expected reducer= to say how the map was made, got {' '.join(fixed)}, too: leave that out.")
    with aside(asked.json):
        check_columns(source.table)  # before a long search for a map
        if asked.colour not in (None, "kind"):
            column(source.table, str(asked.colour))
        if asked.reducer is not None:
            reducer = load_reducer(asked.reducer)
            placed = place_rows(reducer, some_rows(source, asked.n, asked.seed))
        else:
            placed = fit_map(source, asked)
        files = write_map(source.folder, placed, colour_of(placed, asked), source.vectors.name)
    if asked.json:
        places = {"placed": placed.places.to_dict("records")} if placed.new else {}
        print(json.dumps(jsonable(files | placed.quality | places)))
        return
    if placed.new:
        print(placed.places.to_string(index=False))
    print(placed.map.caption)
    print(f"Open: {files['page']}\n      {files['figure']}\n      {atlas_command(Path(files['points']))}")
    if "projector" in files:
        print(f"      tensorboard --logdir {files['projector']}\nSaved: {files['reducer']}")


if __name__ == "__main__":
    command(main)
