"""Edit images of a run or photographs, draw the edits as a strip, and save every edited photograph."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from datamodules.features import as_read
from datamodules.splits import SPLITS
from evaluation.drawing.figures import COMPONENT_VALUES, Column, signed, strip
from evaluation.editing.edit_options import (
    EditableRun,
    Options,
    check_values,
    component_name,
    figure_path,
    mode_of,
    plain,
    shortened,
    titled,
    unused,
    values_of,
)
from evaluation.editing.editor import check_strength
from evaluation.editing.photographs import Subjects, to_tensor
from models import UserError, check_choice, near_names
from models.composition import COMPOSITIONS
from training.files import write_file

__all__ = ["Chosen", "Edit", "edit_run"]

SHOWN = 256  # side in pixels at which a strip shows the square of a photograph


class Edit(NamedTuple):
    """Edited latents and the title of the edit."""

    title: str
    latents: Float[Tensor, "n d"]


class Chosen(NamedTuple):
    """Images to edit; `rows` are their row numbers if they come from the run's data."""

    names: list[str]
    subjects: Subjects
    rows: Tensor | None


def chosen_images(run: EditableRun, options: Options) -> Chosen:
    """Read the photographs of images=, or choose images of a split of the run's data.

    Raises:
        UserError: a file that cannot be read or shows no face; no such split, or no image to edit in it.
    """
    if options.images is not None:
        if not options.images:
            raise UserError("Expected at least one path in images=[...], got none.")
        return Chosen(options.images, run.editor.subjects(options.images, options.align, options.face), None)
    if options.face != 1:
        raise UserError(
            f"Expected photographs with face=, got face={options.face} alone: give their paths, images=[...]."
        )
    if options.split not in SPLITS:
        raise UserError(
            f"Expected split=train, validation or test, got {options.split!r}.{near_names(options.split, SPLITS)}"
        )
    rows = run.data.rows(SPLITS[options.split])
    if options.n < 1 or not len(rows):
        raise UserError(f"Expected at least one image, got n={options.n} of {len(rows)} with split={options.split}.")
    rows = labelled_otherwise(run, rows, options)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(options.seed))
    rows = rows[order[: options.n]]
    pixels = as_read(run.data.images[rows], run.editor.encoder.size)
    return Chosen([run.data.ids[row] for row in rows.tolist()], Subjects(pixels), rows)


def labelled_otherwise(run: EditableRun, rows: Tensor, options: Options) -> Tensor:
    """Select the rows whose label is another value than that of the edit; all where no label is known.

    Raises:
        UserError: every labelled row has that value already.
    """
    if options.factor is None or options.value is None:
        return rows
    factor, target = (
        run.editor.factors[run.editor.factor(options.factor)],
        run.editor.value(run.editor.factor(options.factor), options.value),
    )
    labelled = [known.name for known in run.data.factors.factors]
    if factor.kind == "continuous" or factor.name not in labelled:  # or defined by prompts=
        return rows
    labels = run.data.factors.values[rows, labelled.index(factor.name)]
    starting = rows[~labels.isnan() & (labels != target)]
    if not len(starting):
        raise UserError(
            f"Expected images of split={options.split} that start without {titled(run, factor.name, target)}, got "
            f"none: choose another split= or value=, or values=[{target:g}] for images of any label."
        )
    return starting


def set_factor(run: EditableRun, latents: Float[Tensor, "n d"], options: Options) -> list[Edit]:
    """Set one factor to each of the values."""
    return [
        Edit(title, run.editor.edit_latents(latents, {options.factor or "": value}, options.strength))
        for title, value in values_of(run, options).items()
    ]


def set_in_turn(run: EditableRun, latents: Float[Tensor, "n d"], options: Options) -> list[Edit]:
    """Set several factors one after the other, each on top of those before."""
    edits: list[Edit] = []
    for name, value in (options.edits or {}).items():
        latents = run.editor.edit_latents(latents, {name: value}, options.strength)
        edits.append(Edit(f"{'+ ' if edits else ''}{titled(run, name, value)}", latents))
    return edits


def set_component(run: EditableRun, latents: Float[Tensor, "n d"], options: Options) -> list[Edit]:
    """Set one component to each of the values."""
    edits = []
    for value in COMPONENT_VALUES if options.values is None else options.values:
        edited = run.editor.component_latents(latents, options.component or 0, value, options.strength)
        edits.append(Edit(signed(float(value)), edited))
    return edits


def truths(run: EditableRun, images: Chosen, options: Options) -> list[Column]:
    """Draw the ground-truth counterfactuals where scenes can be drawn; for compose=none encoded and decoded."""
    if options.factor is None or images.rows is None or options.donor is not None or run.data.counterfactual is None:
        return []
    if options.factor not in [factor.name for factor in run.data.factors.factors]:  # defined by prompts=, not drawn
        return []
    number, values = run.editor.factor(options.factor), values_of(run, options)
    columns = []
    for i, (name, value) in enumerate(values.items()):
        targets = torch.full((len(images.rows),), run.editor.value(number, value))
        drawn: Tensor = run.data.counterfactual(images.rows, options.factor, targets)
        title = f"ground truth\n{name}" if len(values) > 1 else "ground truth"
        shown = run.editor.decode(run.editor.encode(drawn)) if options.compose == "none" else drawn
        columns.append(Column(title, shown, i == 0 and len(values) > 1))
    return columns


def columns_of(
    images: Chosen, titles: Sequence[str], pictures: Sequence[Sequence[Image.Image]], donor: Tensor | None
) -> list[Column]:
    """Build the columns of originals, donor and edits; photographs are shown by the squares that were edited."""
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


def draw(
    run: EditableRun,
    options: Options,
    path: Path,
    images: Chosen,
    latents: Float[Tensor, "n d"],
    edits: Sequence[Edit],
    donor: Tensor | None,
) -> list[Path]:
    """Draw the strip at `path`, and write the user's photographs with each edit beside it, whole."""
    reconstruction = run.editor.decode(latents)
    decoded = [reconstruction if options.strength == 0 else run.editor.decode(edit.latents) for edit in edits]
    titles = [edit.title for edit in edits]
    pictures = [run.editor.composed(images.subjects, reconstruction, edited, options.compose) for edited in decoded]
    if options.compose == "none":
        unframed = Chosen(images.names, Subjects(images.subjects.pixels), images.rows)
        columns = columns_of(unframed, titles, pictures, donor)
        columns.insert(1, Column("reconstruction", reconstruction))
    else:
        columns = columns_of(images, titles, pictures, donor)
    title = component_name(run, options.component) if options.component is not None else ""
    strip(path, columns + truths(run, images, options), title=title)
    return write_pictures(path.parent, options, titles, pictures) if options.images is not None else []


def write_pictures(
    folder: Path, options: Options, titles: Sequence[str], pictures: Sequence[Sequence[Image.Image]]
) -> list[Path]:
    """Write each photograph with each edit composed into it, whole, as a PNG."""
    written = []
    for title, row in zip(titles, pictures, strict=True):
        for name, picture in zip(options.images or [], row, strict=True):
            which = [f"component {options.component} at"] if options.component is not None else []
            strength = [f"strength_{options.strength:g}"] if options.strength != 1 else []
            face = [f"face_{options.face}"] if options.face != 1 else []
            file = io.BytesIO()
            picture.save(file, "PNG")
            stem = shortened(plain("_".join([Path(name).stem, *face, *which, title, *strength])))
            written.append(unused(folder / f"{stem}.png"))
            write_file(written[-1], file.getvalue())
    return written


@torch.inference_mode()
def edit_run(run: EditableRun, options: Options) -> dict[str, Any]:
    """Edit images as the options choose, draw the edits, and return the JSON answer: paths, images and codes.

    Raises:
        UserError: options that do not fit the run, see `mode_of`, `check_values` and `chosen_images`.
    """
    check_choice("compose", options.compose, (None, *COMPOSITIONS))
    check_strength(options.strength)
    mode = mode_of(run, options)
    check_values(run, options)
    donor = None if options.donor is None else run.donor(options.donor, options.align)
    images = chosen_images(run, options)
    latents = run.editor.encode(images.subjects.pixels)
    if donor is not None:
        name = options.factor or ""
        edits = [
            Edit(
                f"the donor's {name}",
                run.editor.swap_latents(latents, run.editor.encode(donor), name, options.strength),
            )
        ]
    else:
        edits = {"factor": set_factor, "component": set_component, "edits": set_in_turn}[mode](run, latents, options)
    path = figure_path(run, options)
    pictures = draw(run, options, path, images, latents, edits, donor)
    codes = {}
    if options.json:
        after = {edit.title: run.editor.iin.encode(edit.latents).cpu() for edit in edits}
        codes = {"codes": {"before": run.editor.iin.encode(latents).cpu(), "after": after}}
    return {
        "run": str(run.path),
        "figure": str(path),
        "pictures": [str(picture) for picture in pictures],
        "images": images.names,
        "strength": options.strength,
        **codes,
    }
