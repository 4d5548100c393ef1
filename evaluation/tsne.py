"""Map the features of a run and the codes of its models: python -m evaluation.tsne run=RUN [method=umap].

The maps lie side by side, coloured by label and by cluster: in a picture, on a page with thumbnails on hover, in the
projector of TensorBoard, and in points.parquet for Embedding Atlas.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.command import command, data_places, json_only, parse_options
from evaluation.maps.export import atlas_command
from evaluation.maps.run_maps import Options, map_run
from evaluation.run import load

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Draw the maps of a run, and print the files that were written."""
    arguments, places = data_places(arguments)
    options = parse_options(Options, arguments)
    run = load(options.run, places=places)
    with json_only(options.json):
        result = map_run(run, options)
    if options.json:
        print(json.dumps(result))
        return
    print(f"Open: {result['page']}\n      {result['figure']}\n      tensorboard --logdir {run.path / 'tensorboard'}")
    print(f"      {atlas_command(Path(result['points']))}")


if __name__ == "__main__":
    command(main, Options)
