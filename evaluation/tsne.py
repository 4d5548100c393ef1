"""Maps of a run's features and of what its model made of them: python -m evaluation.tsne run=RUN [method=umap].

Side by side, coloured by label and by cluster: a picture, a page with thumbnails on hover, TensorBoard's projector, and
points.parquet for Embedding Atlas. Options: method=tsne, umap or pca; dimensions=2 or 3; spaces=[features,autoencoder];
n=5000 rows (default: as many as the method can take); perplexity=30 of t-SNE; neighbours=15 of UMAP; metric=euclidean
or cosine; seed=0; json=true.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.command import aside, command, options
from evaluation.maps.export import atlas_command
from evaluation.maps.run_maps import Options, map_run
from evaluation.run import load

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    run = load(asked.run)
    with aside(asked.json):
        result = map_run(run, asked)
    if asked.json:
        print(json.dumps(result))
        return
    print(f"Open: {result['page']}\n      {result['figure']}\n      tensorboard --logdir {run.path / 'tensorboard'}")
    print(f"      {atlas_command(Path(result['points']))}")


if __name__ == "__main__":
    command(main)
