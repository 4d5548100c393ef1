"""Map embeddings by t-SNE, UMAP or PCA: python -m evaluation.project run=RUN or data=... [encoder=...] ...

    method=umap 'prompts=[a dog,"a, cat"]'    fit a map, and place new texts or image files on it
    reducer=reducer.npz                       place the rows of the data on a saved map

The command writes a page, a picture, points.parquet, a TensorBoard projector and reducer.npz.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.command import command, json_only
from evaluation.embeddings.project import MAP_OPTIONS, Options, colour_of, fit_map, place_rows, write_map
from evaluation.embeddings.rows import column, sample_rows
from evaluation.embeddings.source import SourceOptions, options_and_source
from evaluation.maps.export import atlas_command, check_columns
from evaluation.maps.placement import load_reducer
from models import UserError
from training.files import jsonable

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Fit a map or place rows on a saved one, write it, and print where the new points are."""
    options, source = options_and_source(Options, arguments, "embeddings/project")
    if options.reducer is not None and options.prompts is not None:
        raise UserError("Expected reducer= or prompts=, got both: give the prompts as data=texts to place them.")
    if options.reducer is not None and (fixed := [a for a in arguments if a.split("=")[0] in MAP_OPTIONS]):
        raise UserError(f"Expected no options of a new map beside reducer=, got {' '.join(fixed)}: leave that out.")
    with json_only(options.json):
        check_columns(source.table)  # before the long fit of a map
        if options.colour not in (None, "kind"):
            column(source.table, str(options.colour))
        if options.reducer is not None:
            reducer = load_reducer(options.reducer)
            placed = place_rows(reducer, sample_rows(source, options.n, options.seed))
        else:
            placed = fit_map(source, options)
        files = write_map(source.folder, placed, colour_of(placed, options), source.vectors.name)
    if options.json:
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
    command(main, Options, SourceOptions)
