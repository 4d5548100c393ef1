"""Draw the image strips of a run as PNG files. Images are enlarged by whole factors, without smoothing."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from evaluation.drawing.fonts import rendered
from training.files import write_file

if TYPE_CHECKING:  # matplotlib takes half a second, and most commands draw nothing
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "COMPONENT_VALUES",
    "Column",
    "FAINT",
    "INK",
    "MUTED",
    "component_strip",
    "edit_strips",
    "factor_grid",
    "figure",
    "reconstructions",
    "samples",
    "shortened",
    "signed",
    "strip",
    "tile",
    "to_uint8",
    "write_figure",
]

CELL, GAP, APART = 128, 4, 16  # pixels: minimum side of an image, gap between images, gap between column groups
DPI = 100
MOST_BYTES = 1_000_000  # of a strip of images in full colour
COMPONENT_VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # default values of a component, in standard deviations
INK, MUTED, FAINT = "#1f2430", "#6b7280", "#e5e7eb"
COLOURS = {"flow": "#2563eb", "mean difference": "#d97706", "linear SVM": "#0d9488", "oracle": "#9ca3af"}
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "text.parse_math": False,  # names with two $ would be set as formulas
}


class Column(NamedTuple):
    """A column of a strip, one image per row; `apart` sets a wider gap to its left."""

    title: str
    images: Shaped[Tensor, "rows 3 size size"]  # uint8, or float in [0, 1]
    apart: bool = False


@contextmanager
def figure(path: Path | None, width: float, height: float) -> Iterator["Figure"]:
    """Open a matplotlib figure of the given size in inches, in the house style, and save it as a PNG if `path` is set.

    No global state of matplotlib changes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        drawing = Figure((width, height), dpi=DPI)
        yield drawing
    if path is not None:
        write_figure(path, drawing)


def write_figure(path: Path, drawing: "Figure") -> None:
    """Write a figure as a PNG in full colour, in the house style.

    Raises:
        UserError: the folder cannot be written.
    """
    write_file(path, png_of(drawing))


def png_of(drawing: "Figure") -> bytes:
    """Return a figure as a PNG in full colour, in the house style, with fonts for all of its characters."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        return rendered(drawing, DPI)


def small(png: bytes) -> bytes:
    """Reduce a PNG above `MOST_BYTES` to 256 colours.

    For strips of photographs only: in a chart, a palette merges the colours of classes that have few pixels.
    """
    if len(png) <= MOST_BYTES:
        return png
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    return file.getvalue()


def to_uint8(images: Shaped[Tensor, "n 3 size size"]) -> UInt8[Tensor, "n 3 size size"]:
    """Convert floats in [0, 1] to bytes on the CPU; bytes pass through."""
    images = images.detach().cpu()
    return images if images.dtype == torch.uint8 else images.float().clamp(0, 1).mul(255).round().to(torch.uint8)


def enlargement(size: int) -> int:
    """Return the smallest whole factor that enlarges an image to at least `CELL` pixels."""
    return max(1, -(-CELL // size))


def lefts(columns: Sequence[Column], side: int) -> list[int]:
    """Return the left edge of each column, in pixels."""
    starts = [0]
    for column in columns[1:]:
        starts.append(starts[-1] + side + (APART if column.apart else GAP))
    return starts


def tile(columns: Sequence[Column]) -> UInt8[np.ndarray, "height width 3"]:
    """Arrange the images of all columns on a white canvas, without text."""
    size = columns[0].images.shape[-1]
    scale = enlargement(size)
    side, rows = size * scale, len(columns[0].images)
    starts = lefts(columns, side)
    canvas = np.full((rows * (side + GAP) - GAP, starts[-1] + side, 3), 255, dtype=np.uint8)
    for left, column in zip(starts, columns, strict=True):
        for row, image in enumerate(to_uint8(column.images).permute(0, 2, 3, 1).numpy()):
            top = row * (side + GAP)
            canvas[top : top + side, left : left + side] = image.repeat(scale, 0).repeat(scale, 1)
    return canvas


def strip(path: Path, columns: Sequence[Column], labels: Sequence[str] = (), title: str = "") -> None:
    """Draw rows of images with a title above each column and a label to the left of each row."""
    canvas = tile(columns)
    side = columns[0].images.shape[-1] * enlargement(columns[0].images.shape[-1])
    margin = 12 + (max(len(label) for label in labels) * 7 + 8 if labels else 0)
    lines = max(column.title.count("\n") + 1 if column.title else 0 for column in columns)
    head = 10 + 15 * lines + (26 if title else 0)
    height, width = head + canvas.shape[0] + 12, margin + canvas.shape[1] + 12
    with figure(None, width / DPI, height / DPI) as drawing:
        drawing.figimage(canvas, margin, height - head - canvas.shape[0], origin="upper")
        if title:
            drawing.text(margin / width, 1 - 12 / height, title, va="top", size=11, weight="bold")
        for left, column in zip(lefts(columns, side), columns, strict=True):
            x, y = (margin + left + side / 2) / width, 1 - (head - 8) / height
            drawing.text(x, y, column.title, ha="center", va="baseline", size=9, linespacing=1.1)
        for row, label in enumerate(labels):
            y = 1 - (head + row * (side + GAP) + side / 2) / height
            drawing.text((margin - 8) / width, y, label, ha="right", va="center", size=9, color=MUTED)
    write_file(path, small(png_of(drawing)))


def edit_strips(
    path: Path,
    title: str,
    labels: Sequence[str],
    original: Shaped[Tensor, "rows 3 size size"],
    reconstruction: Shaped[Tensor, "rows 3 size size"],
    edits: Mapping[str, Shaped[Tensor, "rows 3 size size"]],
    truth: Shaped[Tensor, "rows 3 size size"] | None = None,
) -> None:
    """Draw the edits of one factor by several editors, a row per image.

    From left to right: the edit by the first editor, the original, the ground-truth counterfactual where it is known,
    the other editors, and the reconstruction that all edits start from.
    """
    (flow, edited), *others = edits.items()
    columns = [Column(flow, edited), Column("original", original)]
    if truth is not None:
        columns.append(Column("ground truth", truth))
    columns += [Column(name, images, i == 0) for i, (name, images) in enumerate(others)]
    strip(path, [*columns, Column("reconstruction", reconstruction, True)], labels, title)


def signed(value: float) -> str:
    """Format a number with its sign.

    Examples:
        >>> signed(2.0), signed(-0.5), signed(0.0)
        ('+2', '−0.5', '0')
    """
    return f"{value:+g}".replace("-", "−") if value else "0"


def component_strip(
    path: Path,
    title: str,
    original: Shaped[Tensor, "rows 3 size size"],
    values: Sequence[float],
    edited: Sequence[Shaped[Tensor, "rows 3 size size"]],
) -> None:
    """Draw a component traversal: the original, then the component set to each value, in standard deviations."""
    columns = [Column("original", original)]
    for i, (value, images) in enumerate(zip(values, edited, strict=True)):
        columns.append(Column(signed(value), images, i == 0))
    strip(path, columns, title=title)


def factor_grid(
    path: Path,
    original: Shaped[Tensor, "rows 3 size size"],
    reconstruction: Shaped[Tensor, "rows 3 size size"],
    edited: Mapping[str, Shaped[Tensor, "rows 3 size size"]],
    truth: Mapping[str, Shaped[Tensor, "rows 3 size size"]] | None = None,
) -> None:
    """Draw one image per row and one column per edited factor; below each edit the ground truth, where it is known."""

    def column(images: Tensor, below: Tensor) -> Tensor:
        return images if truth is None else torch.stack([to_uint8(images), to_uint8(below)], 1).flatten(0, 1)

    columns = [Column("original", column(original, original))]
    for i, (name, images) in enumerate(edited.items()):
        columns.append(Column(name, column(images, images if truth is None else truth[name]), i == 0))
    labels = [] if truth is None else ["edit", "ground truth"] * len(original)
    strip(path, [*columns, Column("reconstruction", column(reconstruction, reconstruction), True)], labels)


def reconstructions(
    path: Path, original: Shaped[Tensor, "n 3 size size"], reconstruction: Shaped[Tensor, "n 3 size size"]
) -> None:
    """Draw originals above their reconstructions, up to eight per line; an incomplete last line is left out."""
    across = min(8, len(original))
    lines = [to_uint8(images)[: len(images) // across * across].split(across) for images in (original, reconstruction)]
    rows = [row for pair in zip(*lines, strict=True) for row in pair]
    columns = [Column("", torch.stack([row[i] for row in rows])) for i in range(across)]
    strip(path, columns, ["original", "reconstruction"] * len(lines[0]))


def samples(path: Path, rows: Mapping[str, Shaped[Tensor, "n 3 size size"]]) -> None:
    """Draw samples from the prior, a row per choice of factor values."""
    stacked = torch.stack(list(rows.values()))
    strip(path, [Column("", stacked[:, i]) for i in range(stacked.shape[1])], list(rows))


def shortened(text: str, most: int) -> str:
    """Put a text on one line of at most `most` characters.

    Examples:
        >>> shortened("a long   caption", 8)
        'a long …'
    """
    text = " ".join(str(text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
