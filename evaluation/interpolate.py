"""Goes from one embedding to another: python -m evaluation.interpolate run=RUN or data=... [encoder=...] ...

what:
  "between=[a cat,a dog]" names of rows, image files, or texts that the encoder embeds
  n=48                    points between the two
  ways=[linear,spherical] a straight line; an arc, whose length changes evenly from one end's to the other's
  k=3                     nearest rows that are told at every step, without those of the two ends; metric=cosine
  diffusion=FOLDER        draws images=8 steps of each way by Stable Diffusion (a folder, or a name on the hub), both
                          ends being texts: the states of their tokens are gone between, from the noise of one seed=;
                          denoising=30 steps, guidance=7.5
how:
  map=pca                 or umap, tsne: fitted on up to rows=2000 rows, the ways placed on it and drawn; null: none;
                          perplexity=30 of t-SNE, neighbours=15 of UMAP
  seed=0; out=embeddings/interpolate, a folder for what is drawn (of a run: its figures)
  json=true               prints one JSON object

Where the encoder has a decoder (run=RUN of a VAE), images of the steps are drawn.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.command import aside, command
from evaluation.embeddings.interpolation import (
    LINES,
    Options,
    decoded,
    diffused,
    draw_images,
    interpolate,
    map_ways,
    way,
)
from evaluation.embeddings.rows import draw_map
from evaluation.embeddings.source import asked_source
from models import UserError
from models.stable_diffusion import StableDiffusion
from training.files import jsonable, write_file

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    asked, source = asked_source(Options, arguments, "embeddings/interpolate")
    if len(asked.between) != 2:
        raise UserError(f"Expected between=[a,b], got {len(asked.between)} of them: name the two ends.")
    files: list[Path] = []
    with aside(asked.json):
        first, second = asked.between
        model = None if asked.diffusion is None else StableDiffusion(asked.diffusion, source.device)  # or its error
        found = way(source, first, second, asked.n, asked.ways)
        table = interpolate(source, found, asked.k, asked.metric)
        files.append(source.folder / "steps.csv")
        write_file(files[0], table.to_csv(index=False))
        if asked.map is not None:
            places, one = map_ways(source, found, asked.map, asked.metric, asked.rows, asked.perplexity,
                                   asked.neighbours, asked.seed)  # fmt: skip
            files.extend(draw_map(source.folder, "between", one, places, "t", f"Path from {first} to {second}"))
        if source.can_decode:
            files.append(source.folder / "images.png")
            draw_images(files[-1], *decoded(source, found))
        if model is not None:
            files.append(source.folder / "diffusion.png")
            images = diffused(model, asked.between, asked.ways, asked.images, asked.seed, asked.denoising,
                              asked.guidance)  # fmt: skip
            draw_images(files[-1], *images)
    if asked.json:
        answer: dict[str, Any] = {"steps": table.to_dict("records"), "files": [str(file) for file in files]}
        print(json.dumps(jsonable(answer)))
        return
    some = table["step"].isin(np.linspace(0, table["step"].max(), LINES).round())
    print(table[some].round(3).to_string(index=False))
    for file in files:
        print(f"Open: {file}")


if __name__ == "__main__":
    command(main)
