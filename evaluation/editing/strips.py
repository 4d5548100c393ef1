"""Draw edits of a run as strips and save every edited picture: a factor set, all factors in turn, or one component."""

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

SHOWN = 256  # pixels: the side at which a strip shows the square of a photograph


class Edit(NamedTuple):
    """Edited latents and what was done to them."""

    title: str
    latents: Float[Tensor, "n d"]


class Chosen(NamedTuple):
    """Images to edit; `rows` are their numbers in the run's data where they come from there."""

    names: list[str]
    subjects: Subjects
    rows: Tensor | None


def chosen_images(run: EditableRun, asked: Options) -> Chosen:
    """The photographs asked for, or images of a split of the run's data.

    Raises:
        UserError: a file that cannot be read or shows no face; no such split, or no image to edit in it.
    """
    if asked.images is not None:
        if not asked.images:
            raise UserError("Expected at least one path in images=[...], got none.")
        return Chosen(asked.images, run.editor.subjects(asked.images, asked.align, asked.face), None)
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
    pixels = as_read(run.data.images[rows], run.editor.encoder.size)
    return Chosen([run.data.ids[row] for row in rows.tolist()], Subjects(pixels), rows)


def labelled_otherwise(run: EditableRun, rows: Tensor, asked: Options) -> Tensor:
    """Select the rows that start from another value than that of the edit; all where no label is known.

    Raises:
        UserError: every labelled one has that value already.
    """
    if asked.factor is None or asked.value is None:
        return rows
    factor, wanted = (
        run.editor.factors[run.editor.factor(asked.factor)],
        run.editor.value(run.editor.factor(asked.factor), asked.value),
    )
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


def set_factor(run: EditableRun, latents: Float[Tensor, "n d"], asked: Options) -> list[Edit]:
    return [
        Edit(title, run.editor.edit_latents(latents, {asked.factor or "": value}, asked.strength))
        for title, value in values_of(run, asked).items()
    ]


def set_in_turn(run: EditableRun, latents: Float[Tensor, "n d"], asked: Options) -> list[Edit]:
    """Each edit on top of those before it."""
    edits: list[Edit] = []
    for name, value in (asked.edits or {}).items():
        latents = run.editor.edit_latents(latents, {name: value}, asked.strength)
        edits.append(Edit(f"{'+ ' if edits else ''}{titled(run, name, value)}", latents))
    return edits


def set_component(run: EditableRun, latents: Float[Tensor, "n d"], asked: Options) -> list[Edit]:
    """One component at each of the values."""
    edits = []
    for value in COMPONENT_VALUES if asked.values is None else asked.values:
        edited = run.editor.component_latents(latents, asked.component or 0, value, asked.strength)
        edits.append(Edit(signed(float(value)), edited))
    return edits


def truths(run: EditableRun, images: Chosen, asked: Options) -> list[Column]:
    """The same scenes drawn at each value, where they can be drawn; beside decoded edits through the encoder."""
    if asked.factor is None or images.rows is None or asked.donor is not None or run.data.counterfactual is None:
        return []
    if asked.factor not in [factor.name for factor in run.data.factors.factors]:  # defined by prompts=, not drawn
        return []
    number, values = run.editor.factor(asked.factor), values_of(run, asked)
    columns = []
    for i, (name, value) in enumerate(values.items()):
        wanted = torch.full((len(images.rows),), run.editor.value(number, value))
        drawn: Tensor = run.data.counterfactual(images.rows, asked.factor, wanted)
        title = f"ground truth\n{name}" if len(values) > 1 else "ground truth"
        shown = run.editor.decode(run.editor.encode(drawn)) if asked.compose == "none" else drawn
        columns.append(Column(title, shown, i == 0 and len(values) > 1))
    return columns


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


def draw(
    run: EditableRun,
    asked: Options,
    path: Path,
    images: Chosen,
    latents: Float[Tensor, "n d"],
    edits: Sequence[Edit],
    donor: Tensor | None,
) -> list[Path]:
    """The strip at `path`, and beside it the photographs of the user's own with each edit in them, whole."""
    reconstruction = run.editor.decode(latents)
    decoded = [reconstruction if asked.strength == 0 else run.editor.decode(edit.latents) for edit in edits]
    titles = [edit.title for edit in edits]
    pictures = [run.editor.composed(images.subjects, reconstruction, edited, asked.compose) for edited in decoded]
    if asked.compose == "none":
        seen = Chosen(images.names, Subjects(images.subjects.pixels), images.rows)
        columns = columns_of(seen, titles, pictures, donor)
        columns.insert(1, Column("reconstruction", reconstruction))
    else:
        columns = columns_of(images, titles, pictures, donor)
    title = component_name(run, asked.component) if asked.component is not None else ""
    strip(path, columns + truths(run, images, asked), title=title)
    return write_pictures(path.parent, asked, titles, pictures) if asked.images is not None else []


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
def edit_run(run: EditableRun, asked: Options) -> dict[str, Any]:
    """Make the edits, draw them, and return what the JSON answer holds: paths, column titles, codes.

    Raises:
        UserError: see the functions above.
    """
    check_choice("compose", asked.compose, (None, *COMPOSITIONS))
    check_strength(asked.strength)
    mode = mode_of(run, asked)
    check_values(run, asked)
    donor = None if asked.donor is None else run.donor(asked.donor, asked.align)
    images = chosen_images(run, asked)
    latents = run.editor.encode(images.subjects.pixels)
    if donor is not None:
        name = asked.factor or ""
        edits = [
            Edit(
                f"the donor's {name}", run.editor.swap_latents(latents, run.editor.encode(donor), name, asked.strength)
            )
        ]
    else:
        edits = {"factor": set_factor, "component": set_component, "edits": set_in_turn}[mode](run, latents, asked)
    path = figure_path(run, asked)
    pictures = draw(run, asked, path, images, latents, edits, donor)
    codes = {}
    if asked.json:
        after = {edit.title: run.editor.iin.encode(edit.latents).cpu() for edit in edits}
        codes = {"codes": {"before": run.editor.iin.encode(latents).cpu(), "after": after}}
    return {
        "run": str(run.path),
        "figure": str(path),
        "pictures": [str(picture) for picture in pictures],
        "images": images.names,
        "strength": asked.strength,
        **codes,
    }
