"""Edits a finished run's images: python -m evaluation.edit run=RUN ...

what:
  factor=glasses value=1       a factor set to a value, a number or its word (value=with); values=[0,1]: to several;
                               neither: to each value it has
  factor=sex donor=ID_OR_PATH  a factor's block taken from another image
  component=2 values=[-3,2]    one component set, in standard deviations; without values: -3 to +3
  edits={glasses:1,hat:0}      several factors, one after the other
of which images:
  images=[a.png,b.png]         these photographs; else n=8 images of split=test, drawn with seed=0, of which with
                               value= only those labelled otherwise
  align=auto                   the face of a photograph is put where those of the run's images are (extra faces); none:
                               the middle of the picture is edited
  face=1                       the largest face of a photograph; 2: the second largest
how:
  strength=1.0                 0 leaves the image as it is
  compose=add                  how the change is put into the image: blend, replace, threshold, add; none: the
                               decoded edit; else the best of the run's encoder, replace or blend
  out=PATH                     the PNG to write, or a folder for it; else RUN/figures; no file is overwritten
  json=true                    print one JSON object: the paths, the codes before and after

Drawn is a strip; the photographs of images= are also written whole, at their own resolution, with the change in them.
"""

import io
import json
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from omegaconf import MISSING
from PIL import Image
from torch import Tensor

from datamodules.factors import SPLITS, near_names
from datamodules.features import as_read
from evaluation.command import command, options
from evaluation.composition import COMPOSITIONS
from evaluation.figures import COMPONENT_VALUES, Column, signed, strip
from evaluation.files import jsonable, write_file
from evaluation.photographs import to_tensor
from evaluation.run import LoadedRun, Subjects, check_strength, load
from models import UserError, check_choice

__all__ = ["Options", "edit_run", "main"]

# What goes with what is edited.
WITH = {"factor": {"value", "values", "donor"}, "component": {"values"}, "edits": set[str]()}
N = 8  # images of a strip
SHOWN = 256  # pixels: the side at which a strip shows the square of a photograph
LONGEST = 200  # bytes of a file's name, of which a disk takes 255: a counter and a suffix come after it


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
    align: str = "auto"
    face: int = 1
    n: int = N
    strength: float = 1.0
    compose: str | None = None
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
    subjects: Subjects
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


def values_of(run: LoadedRun, asked: Options) -> dict[str, Any]:
    """The values that the factor is set to, by their titles; one that is given by number and by word is there once."""
    name = asked.factor or ""
    number = run.factor(name)
    values = asked.values or ([asked.value] if asked.value is not None else list(run.iin.factors[number].values))
    return {titled(run, name, value): value for value in values}


def check_values(run: LoadedRun, asked: Options) -> None:
    """Refuse a factor or a value that the run does not have, before any image is read."""
    for name, value in (asked.edits or {}).items():
        run.value(run.factor(name), value)
    if asked.factor is not None:
        values_of(run, asked)
    for value in asked.values or [0] if asked.component is not None else []:
        run.component_value(asked.component or 0, value)


def chosen_images(run: LoadedRun, asked: Options) -> Chosen:
    """The photographs asked for, or images of a split of the run's data.

    Raises:
        UserError: a file that cannot be read or shows no face; no such split, or no image to edit in it.
    """
    if asked.images is not None:
        if not asked.images:
            raise UserError("Expected at least one path in images=[...], got none.")
        return Chosen(asked.images, run.subjects(asked.images, asked.align, asked.face), None)
    if asked.face != 1:
        raise UserError(
            f"Expected photographs with face=, got face={asked.face} alone: give their paths, images=[...]."
        )
    if asked.split not in SPLITS:
        raise UserError(
            f"Expected split=train, validation or test, got {asked.split!r}.{near_names(asked.split, SPLITS)}"
        )
    rows = run.data.rows(SPLITS[asked.split])
    if asked.n < 1 or not len(rows):
        raise UserError(f"Expected at least one image, got n={asked.n} of {len(rows)} with split={asked.split}.")
    rows = labelled_otherwise(run, rows, asked)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(asked.seed))
    rows = rows[order[: asked.n]]
    pixels = as_read(run.data.images[rows], run.encoder.size)
    return Chosen([run.data.ids[row] for row in rows.tolist()], Subjects(pixels), rows)


def labelled_otherwise(run: LoadedRun, rows: Tensor, asked: Options) -> Tensor:
    """Of an edit to one value of a factor, the rows that start from another; all where nothing labels them.

    Raises:
        UserError: every labelled one has that value already.
    """
    if asked.factor is None or asked.value is None:
        return rows
    factor, wanted = run.iin.factors[run.factor(asked.factor)], run.value(run.factor(asked.factor), asked.value)
    labelled = [known.name for known in run.data.factors.factors]
    if factor.kind == "continuous" or factor.name not in labelled:  # or defined by prompts=
        return rows
    labels = run.data.factors.values[rows, labelled.index(factor.name)]
    starting = rows[~labels.isnan() & (labels != wanted)]
    if not len(starting):
        raise UserError(
            f"Expected images of split={asked.split} that start without {titled(run, factor.name, wanted)}, got none: "
            f"choose another split= or value=, or values=[{wanted:g}] for images of any label."
        )
    return starting


def set_factor(run: LoadedRun, latents: Float[Tensor, "n d"], asked: Options) -> list[Edit]:
    return [
        Edit(title, run.edit_latents(latents, {asked.factor or "": value}, asked.strength))
        for title, value in values_of(run, asked).items()
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
    """The same scenes drawn at each value, where they can be drawn; beside decoded edits through the encoder."""
    if asked.factor is None or images.rows is None or asked.donor is not None or run.data.counterfactual is None:
        return []
    if asked.factor not in [factor.name for factor in run.data.factors.factors]:  # defined by prompts=, not drawn
        return []
    number, values = run.factor(asked.factor), values_of(run, asked)
    columns = []
    for i, (name, value) in enumerate(values.items()):
        wanted = torch.full((len(images.rows),), run.value(number, value))
        drawn: Tensor = run.data.counterfactual(images.rows, asked.factor, wanted)
        title = f"truth\n{name}" if len(values) > 1 else "truth"
        shown = run.decode(run.encode(drawn)) if asked.compose == "none" else drawn
        columns.append(Column(title, shown, i == 0 and len(values) > 1))
    return columns


def plain(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", text.replace("−", "-")).strip("_")


def shortened(name: str) -> str:
    """A file's name, without its suffix, that a disk takes, whatever letters it has."""
    return name.encode()[:LONGEST].decode(errors="ignore")


def edit_name(run: LoadedRun, asked: Options) -> str:
    """What is done, readable as a file's name."""
    if asked.component is not None:
        values = [] if asked.values is None else ["at", *(f"{float(value):g}" for value in asked.values)]
        return "_".join(["set_component", str(asked.component), *values])
    if asked.donor is not None:
        return f"swap_{asked.factor}_from_{Path(asked.donor).stem}"
    single = [] if asked.value is None else [asked.value]
    wanted = (
        [(asked.factor, value) for value in asked.values or single]
        if asked.factor
        else list((asked.edits or {}).items())
    )
    return "_".join(["set", *(titled(run, name, value) for name, value in wanted)]) if wanted else f"set_{asked.factor}"


def images_name(asked: Options) -> str:
    """Of which images, readable as a file's name."""
    if asked.images is not None:
        more = f"_and_{len(asked.images) - 1}_more" if len(asked.images) > 1 else ""
        return f"{Path(asked.images[0]).stem}{more}" + (f"_face_{asked.face}" if asked.face != 1 else "")
    return f"{asked.split}_seed_{asked.seed}" + (f"_n_{asked.n}" if asked.n != N else "")


def figure_path(run: LoadedRun, asked: Options) -> Path:
    """The PNG to write, named after the edit and its images; never one that exists."""
    if asked.out is not None and asked.out.lower().endswith(".png"):
        return unused(Path(asked.out).expanduser())
    how = [f"strength_{asked.strength:g}"] if asked.strength != 1 else []
    how += [f"compose_{asked.compose}"] if asked.compose else []
    folder = run.path / "figures" if asked.out is None else Path(asked.out).expanduser()
    name = plain("_".join([edit_name(run, asked), *how, images_name(asked)]))
    return unused(folder / f"{shortened(name)}.png")


def unused(path: Path) -> Path:
    """The path, with a counter where there is such a file."""
    count, free = 2, path
    while free.exists():
        free, count = path.with_stem(f"{path.stem}_{count}"), count + 1
    return free


def columns_of(
    images: Chosen, titles: Sequence[str], pictures: Sequence[Sequence[Image.Image]], donor: Tensor | None
) -> list[Column]:
    """The originals, the donor's where there is one, and the edited, of photographs the squares that were edited."""
    framed, pixels = images.subjects.framed, images.subjects.pixels
    if framed is None:
        original: Tensor = pixels
        edited: list[Shaped[Tensor, "n 3 side side"]] = [
            torch.stack([to_tensor(one) for one in row]) for row in pictures
        ]
    else:
        original = torch.stack([one.content(SHOWN) for one in framed])
        edited = [
            torch.stack([one._replace(picture=new).content(SHOWN) for one, new in zip(framed, row, strict=True)])
            for row in pictures
        ]
    columns = [Column("original", original)]
    if donor is not None:
        shown = torch.nn.functional.interpolate(donor, original.shape[-2:])
        columns.append(Column("donor", shown.expand(len(pixels), -1, -1, -1), True))
    return columns + [Column(title, row, i == 0) for i, (title, row) in enumerate(zip(titles, edited, strict=True))]


def write_pictures(
    folder: Path, asked: Options, titles: Sequence[str], pictures: Sequence[Sequence[Image.Image]]
) -> list[Path]:
    """Each photograph with each edit in it, whole, as a PNG."""
    written = []
    for title, row in zip(titles, pictures, strict=True):
        for name, picture in zip(asked.images or [], row, strict=True):
            which = [f"component {asked.component} at"] if asked.component is not None else []
            how = [f"strength_{asked.strength:g}"] if asked.strength != 1 else []
            face = [f"face_{asked.face}"] if asked.face != 1 else []
            file = io.BytesIO()
            picture.save(file, "PNG")
            stem = shortened(plain("_".join([Path(name).stem, *face, *which, title, *how])))
            written.append(unused(folder / f"{stem}.png"))
            write_file(written[-1], file.getvalue())
    return written


@torch.inference_mode()
def edit_run(run: LoadedRun, asked: Options) -> dict[str, Any]:
    """Make the edits, draw them, and return what the JSON answer holds: paths, column titles, codes.

    Raises:
        UserError: see the functions above.
    """
    check_choice("compose", asked.compose, (None, *COMPOSITIONS))
    check_strength(asked.strength)
    mode = what(run, asked)
    check_values(run, asked)
    donor = None if asked.donor is None else run.donor(asked.donor, asked.align)
    images = chosen_images(run, asked)
    latents = run.encode(images.subjects.pixels)
    if donor is not None:
        name = asked.factor or ""
        edits = [Edit(f"the donor's {name}", run.swap_latents(latents, run.encode(donor), name, asked.strength))]
    else:
        edits = {"factor": set_factor, "component": set_component, "edits": set_in_turn}[mode](run, latents, asked)
    path = figure_path(run, asked)
    pictures = draw(run, asked, path, images, latents, edits, donor)
    codes = {}
    if asked.json:
        after = {edit.title: run.iin.encode(edit.latents).cpu() for edit in edits}
        codes = {"codes": {"before": run.iin.encode(latents).cpu(), "after": after}}
    return {
        "run": str(run.path),
        "figure": str(path),
        "pictures": [str(picture) for picture in pictures],
        "images": images.names,
        "strength": asked.strength,
        **codes,
    }


def draw(
    run: LoadedRun,
    asked: Options,
    path: Path,
    images: Chosen,
    latents: Float[Tensor, "n d"],
    edits: Sequence[Edit],
    donor: Tensor | None,
) -> list[Path]:
    """The strip at `path`, and beside it the photographs of the user's own with each edit in them, whole."""
    reconstruction = run.decode(latents)
    decoded = [reconstruction if asked.strength == 0 else run.decode(edit.latents) for edit in edits]
    titles = [edit.title for edit in edits]
    pictures = [run.composed(images.subjects, reconstruction, edited, asked.compose) for edited in decoded]
    if asked.compose == "none":
        seen = Chosen(images.names, Subjects(images.subjects.pixels), images.rows)
        columns = columns_of(seen, titles, pictures, donor)
        columns.insert(1, Column("reconstruction", reconstruction))
    else:
        columns = columns_of(images, titles, pictures, donor)
    title = component_name(run, asked.component) if asked.component is not None else ""
    strip(path, columns + truths(run, images, asked), title=title)
    return write_pictures(path.parent, asked, titles, pictures) if asked.images is not None else []


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    # Loading may print (a cache being built, say), and JSON on the standard output has to stay alone.
    with redirect_stdout(sys.stderr) if asked.json else nullcontext():
        answer = edit_run(load(asked.run), asked)
    opened = "\n".join(f"Open: {path}" for path in [answer["figure"], *answer["pictures"]])
    print(json.dumps(jsonable(answer)) if asked.json else opened)


if __name__ == "__main__":
    command(main)
