"""Edits a finished run's images: python -m evaluation.edit run=RUN ...

what:
  factor=glasses value=1       a factor set to a value, a number or its word (value=with); values=[0,1]: to several;
                               neither: to each value it has
  factor=sex donor=ID_OR_PATH  a factor's block taken from another image
  component=2 values=[-3,2]    one component set, in standard deviations; without values: -3 to +3
  edits={glasses:1,hat:0}      several factors, one after the other
of which images:
  images=[a.png,b.png]         these files; else n=8 images of split=test, drawn with seed=0
how:
  strength=1.0                 0 leaves the image as it is
  out=PATH                     the PNG to write, or a folder for it; else RUN/figures
  json=true                    print one JSON object: the paths, the codes before and after
"""

import json
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from omegaconf import MISSING
from torch import Tensor

from datamodules.factors import SPLITS, near_names
from evaluation.command import command, options
from evaluation.figures import COMPONENT_VALUES, Column, signed, strip
from evaluation.files import jsonable
from evaluation.run import LoadedRun, load
from models import UserError

__all__ = ["Options", "edit_run", "main"]

# What goes with what is edited.
WITH = {"factor": {"value", "values", "donor"}, "component": {"values"}, "edits": set[str]()}


@dataclass
class Options:
    """See the module's text."""

    run: str = MISSING
    factor: str | None = None
    value: Any = None
    values: list[Any] | None = None
    component: int | None = None
    donor: str | None = None
    edits: dict[str, Any] | None = None
    images: list[str] | None = None
    split: str = "test"
    n: int = 8
    strength: float = 1.0
    out: str | None = None
    json: bool = False
    seed: int = 0


class Edit(NamedTuple):
    """Edited latents and what was done to them."""

    title: str
    latents: Float[Tensor, "n d"]


class Chosen(NamedTuple):
    """Images to edit; `rows` are their numbers in the run's data where they come from there."""

    names: list[str]
    pixels: UInt8[Tensor, "n 3 size size"]
    rows: Tensor | None


def what(run: LoadedRun, asked: Options) -> str:
    """Which of factor, component and edits is asked for.

    Raises:
        UserError: none or several of them; options that do not go with it.
    """
    modes = [name for name in WITH if getattr(asked, name) is not None]
    if len(modes) != 1:
        names = ", ".join(factor.name for factor in run.iin.factors) or "none"
        raise UserError(
            f"Expected one of factor=, component= and edits=, got {' and '.join(modes) or 'none'}: try component=0, or "
            f"factor=NAME value=1 with one of this run's factors ({names})."
        )
    extra = [name for name in ("value", "values", "donor") if getattr(asked, name) is not None]
    if len(extra) > 1 or set(extra) - WITH[modes[0]]:
        allowed = " or ".join(f"{name}=" for name in sorted(WITH[modes[0]])) or "nothing else"
        raise UserError(f"Expected {allowed} with {modes[0]}=, got {' and '.join(f'{name}=' for name in extra)}.")
    return modes[0]


def chosen_images(run: LoadedRun, asked: Options) -> Chosen:
    """The files asked for, or images of a split of the run's data.

    Raises:
        UserError: a file that cannot be read; no such split, or an empty one.
    """
    if asked.images is not None:
        if not asked.images:
            raise UserError("Expected at least one path in images=[...], got none.")
        return Chosen(asked.images, run.pixels(asked.images), None)
    if asked.split not in SPLITS:
        raise UserError(
            f"Expected split=train, validation or test, got {asked.split!r}.{near_names(asked.split, SPLITS)}"
        )
    rows = run.data.rows(SPLITS[asked.split])
    if asked.n < 1 or not len(rows):
        raise UserError(f"Expected at least one image, got n={asked.n} of {len(rows)} with split={asked.split}.")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(asked.seed))
    rows = rows[order[: asked.n]]
    return Chosen([run.data.ids[row] for row in rows.tolist()], run.data.images[rows], rows)


def set_factor(run: LoadedRun, latents: Float[Tensor, "n d"], asked: Options) -> list[Edit]:
    name = asked.factor or ""
    factor = run.iin.factors[run.factor(name)]
    values = asked.values or ([asked.value] if asked.value is not None else list(factor.values))
    return [
        Edit(titled(run, name, value), run.edit_latents(latents, {name: value}, asked.strength)) for value in values
    ]


def set_in_turn(run: LoadedRun, latents: Float[Tensor, "n d"], asked: Options) -> list[Edit]:
    """Each edit on top of those before it."""
    edits: list[Edit] = []
    for name, value in (asked.edits or {}).items():
        latents = run.edit_latents(latents, {name: value}, asked.strength)
        edits.append(Edit(f"{'+ ' if edits else ''}{titled(run, name, value)}", latents))
    return edits


def set_component(run: LoadedRun, latents: Float[Tensor, "n d"], asked: Options) -> list[Edit]:
    """One component at each of the values."""
    edits = []
    for value in COMPONENT_VALUES if asked.values is None else asked.values:
        edited = run.component_latents(latents, asked.component or 0, value, asked.strength)
        edits.append(Edit(signed(float(value)), edited))
    return edits


def titled(run: LoadedRun, name: str, value: Any) -> str:
    """A factor and a value, in its own words where it has them."""
    number = run.factor(name)
    factor, wanted = run.iin.factors[number], run.value(number, value)
    return f"{name}: {f'{wanted:.3g}' if factor.kind == 'continuous' else factor.values[int(wanted)]}"


def component_name(run: LoadedRun, component: int) -> str:
    """Its number and the factor in whose block it lies."""
    of = [factor.name for factor, block in zip(run.iin.factors, run.iin.blocks, strict=True)
          if block.start <= component < block.stop]  # fmt: skip
    return f"component {component} ({of[0] if of else 'residual'})"


def truths(run: LoadedRun, images: Chosen, asked: Options) -> list[Column]:
    """The same scenes drawn at each value, through the encoder, where they can be drawn."""
    if asked.factor is None or images.rows is None or asked.donor is not None or run.data.counterfactual is None:
        return []
    if asked.factor not in [factor.name for factor in run.data.factors.factors]:  # defined by prompts=, not drawn
        return []
    number = run.factor(asked.factor)
    values = asked.values or ([asked.value] if asked.value is not None else list(run.iin.factors[number].values))
    columns = []
    for i, value in enumerate(values):
        wanted = torch.full((len(images.rows),), run.value(number, value))
        drawn = run.data.counterfactual(images.rows, asked.factor, wanted)
        title = f"truth\n{titled(run, asked.factor, value)}" if len(values) > 1 else "truth"
        columns.append(Column(title, run.decode(run.encode(drawn)), i == 0 and len(values) > 1))
    return columns


def figure_path(run: LoadedRun, asked: Options) -> Path:
    """The PNG to write, named after the edit."""
    if asked.out is not None and asked.out.lower().endswith(".png"):
        return Path(asked.out).expanduser()
    if asked.component is not None:
        names = ["component", str(asked.component)]
    else:
        names = [asked.factor] if asked.factor is not None else list(asked.edits or {})
    name = "_".join(["set" if asked.donor is None else "swap", *names])
    folder = run.path / "figures" if asked.out is None else Path(asked.out).expanduser()
    return folder / f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)}.png"


@torch.inference_mode()
def edit_run(run: LoadedRun, asked: Options) -> dict[str, Any]:
    """Make the edits, draw them, and return what the JSON answer holds: paths, column titles, codes.

    Raises:
        UserError: see the functions above.
    """
    mode = what(run, asked)
    images = chosen_images(run, asked)
    latents = run.encode(images.pixels)
    columns = [Column("original", images.pixels), Column("reconstruction", run.decode(latents))]
    if asked.donor is not None:
        donor, name = run.donor(asked.donor), asked.factor or ""
        columns.append(Column("donor", donor.expand_as(images.pixels), True))
        edits = [Edit(f"the donor's {name}", run.swap_latents(latents, run.encode(donor), name, asked.strength))]
    else:
        edits = {"factor": set_factor, "component": set_component, "edits": set_in_turn}[mode](run, latents, asked)
    columns += [Column(edit.title, run.decode(edit.latents), i == 0) for i, edit in enumerate(edits)]
    path = figure_path(run, asked)
    title = component_name(run, asked.component) if asked.component is not None else ""
    strip(path, columns + truths(run, images, asked), title=title)
    after = {edit.title: run.iin.encode(edit.latents).cpu() for edit in edits}
    codes = {"before": run.iin.encode(latents).cpu(), "after": after}
    return {
        "run": str(run.path),
        "figure": str(path),
        "images": images.names,
        "strength": asked.strength,
        "codes": codes,
    }


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    # Loading may print (a cache being built, say), and JSON on the standard output has to stay alone.
    with redirect_stdout(sys.stderr) if asked.json else nullcontext():
        answer = edit_run(load(asked.run), asked)
    print(json.dumps(jsonable(answer)) if asked.json else f"Open: {answer['figure']}")


if __name__ == "__main__":
    command(main)
