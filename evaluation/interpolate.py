"""Interpolate between two embeddings: python -m evaluation.interpolate run=RUN or data=... between=[A,B] ...

    "between=[a cat,a dog]"    two names of rows, image files, or texts, which the encoder embeds

A linear interpolation is the straight line between the two, a spherical one the arc whose norm changes evenly from that
of the first to that of the second. The command lists every step with its nearest rows, and draws it on a map. Where the
encoder has a decoder (run=RUN of a VAE), the steps are decoded into images; with diffusion= the token states of two
texts are interpolated and drawn by Stable Diffusion.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.command import command, json_only
from evaluation.embeddings.interpolation import (
    LINES,
    Options,
    decode_steps,
    diffuse_steps,
    draw_images,
    interpolate,
    map_interpolation,
    step_table,
)
from evaluation.embeddings.rows import draw_map
from evaluation.embeddings.source import SourceOptions, options_and_source
from models import UserError
from models.stable_diffusion import StableDiffusion
from training.files import csv_text, jsonable, write_file

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Interpolate, write tables and pictures, and print the steps."""
    options, source = options_and_source(Options, arguments, "embeddings/interpolate")
    if len(options.between) != 2:
        raise UserError(f"Expected between=[a,b], got {len(options.between)} of them: name the two ends.")
    files: list[Path] = []
    with json_only(options.json):
        first, second = options.between
        # Loaded first, so that an error in its name comes before the work.
        model = None if options.diffusion is None else StableDiffusion(options.diffusion, source.device)
        path = interpolate(source, first, second, options.n, options.interpolations)
        table = step_table(source, path, options.k, options.metric)
        files.append(source.folder / "steps.csv")
        write_file(files[0], csv_text(table))
        if options.map is not None:
            points, path_map = map_interpolation(source, path, options.map, options.metric, options.rows,
                                                 options.perplexity, options.neighbours, options.seed)  # fmt: skip
            title = f"Path from {first} to {second}"
            files.extend(draw_map(source.folder, "between", path_map, points, "t", title))
        if source.can_decode:
            files.append(source.folder / "images.png")
            draw_images(files[-1], *decode_steps(source, path))
        if model is not None:
            files.append(source.folder / "diffusion.png")
            images = diffuse_steps(model, options.between, options.interpolations, options.images, options.seed,
                                   options.denoising, options.guidance)  # fmt: skip
            draw_images(files[-1], *images)
    if options.json:
        answer: dict[str, Any] = {"steps": table.to_dict("records"), "files": [str(file) for file in files]}
        print(json.dumps(jsonable(answer)))
        return
    shown = table["step"].isin(np.linspace(0, table["step"].max(), LINES).round())
    print(table[shown].round(3).to_string(index=False))
    for file in files:
        print(f"Open: {file}")


if __name__ == "__main__":
    command(main, Options, SourceOptions)
