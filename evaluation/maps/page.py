"""Write maps as one self-contained interactive HTML page. `page.html` is its template."""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from evaluation.maps.export import jpeg, printable, thumbnails
from evaluation.maps.neighbours import checked
from evaluation.maps.scatter import PALETTE, Map, Scale, colouring
from training.files import write_file

__all__ = ["write_page"]

TEMPLATE = Path(__file__).with_suffix(".html")
MOST_NAMES = 256  # text of more values can be searched, but does not colour the points
MOST_IMAGES = 10_000  # points that have a thumbnail
SIDE, BLOCK, ACROSS = 48, 8, 32  # largest side of a thumbnail, side of a JPEG block, thumbnails per sheet row


def packed(values: np.ndarray, kind: str) -> str:
    """Encode an array as the page reads it: little-endian bytes in base64."""
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def page_column(name: str, values: pd.Series) -> dict[str, Any]:
    """Encode a column of the table as classes, numbers or text."""
    read = colouring(values)
    if isinstance(read, Scale):
        return {"name": name, "kind": "scale", "values": packed(read.values, "<f4")}
    if len(read.names) > MOST_NAMES:
        return {"name": name, "kind": "text", "values": [read.names[code] if code >= 0 else "" for code in read.codes]}
    return {"name": name, "kind": "classes", "names": read.names, "codes": packed(read.codes, "<i2")}


def sheets(images: UInt8[Tensor, "n channels size size"], rows: Int64[Tensor, " rows"]) -> dict[str, Any]:
    """Tile the thumbnails of these rows into JPEG sheets of 1,024, each of which the page decodes on first use."""
    found: list[str] = []
    side = pitch = 0
    for chosen in rows.split(ACROSS**2):
        part = thumbnails(images[chosen], SIDE)
        side = part.shape[1]
        pitch = -(-side // BLOCK) * BLOCK
        gap = (0, pitch - side)
        tiles = np.zeros((ACROSS**2, pitch, pitch, 3), np.uint8)
        tiles[: len(part)] = np.pad(part, ((0, 0), gap, gap, (0, 0)), mode="edge")
        lines = -(-len(part) // ACROSS)
        sheet = tiles.reshape(ACROSS, ACROSS, pitch, pitch, 3).swapaxes(1, 2).reshape(-1, ACROSS * pitch, 3)
        found.append(base64.b64encode(jpeg(sheet[: lines * pitch])).decode())
    return {"side": side, "pitch": pitch, "across": ACROSS, "count": len(rows), "files": found}


def script_json(content: Any) -> str:
    """Encode as JSON in which no text can close the script element."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def filled(template: str, parts: Mapping[str, str]) -> str:
    """Replace each /*{name}*/ of the template in one pass, so that inserted text is not expanded again."""
    return re.sub(r"/\*\{(\w+)\}\*/", lambda found: parts[found[1]], template)


def write_page(
    path: Path,
    maps: Mapping[str, Map],
    table: pd.DataFrame,
    images: UInt8[Tensor, "n channels size size"] | None = None,
    title: str = "Map",
    notes: Iterable[str] = (),
    coloured: bool = True,
) -> None:
    """Write one HTML file that needs no network: maps side by side, coloured by any column, with search and selection.

    Up to 10,000 points have a thumbnail. The first column colours the points at the start; with `coloured=False` none
    does. Points are in random order, so that no class hides another and the thumbnails are a random sample.

    Raises:
        UserError: the file cannot be written.
    """
    from plotly.offline import get_plotlyjs

    order = np.random.default_rng(0).permutation(len(table))
    places = np.argsort(order)
    shuffled = table.iloc[order]
    shown: list[dict[str, Any]] = []
    for name, one in maps.items():
        points = checked(one.coordinates, "euclidean")[order]
        axes = [packed(axis, "<f4") for axis in points.T]
        names = [printable(one.names[row]) for row in order] if len(one.names) else None
        lines = [places[list(rows)].tolist() for rows in one.lines]
        shown.append({"name": name, "caption": one.caption, "axes": axes, "names": names, "lines": lines})
    alike = [] if coloured else [page_column("no colour", pd.Series([""] * len(table)))]
    content = {
        "title": title,
        "notes": list(notes),
        "ids": [printable(name) for name in shuffled["id"]],
        "maps": shown,
        "columns": [*alike, *(page_column(str(name), shuffled[name]) for name in table.columns if name != "id")],
        "thumbnails": None if images is None else sheets(images, torch.from_numpy(order[:MOST_IMAGES])),
        "palette": PALETTE,
    }
    parts = {"title": escape(title), "plotly": get_plotlyjs(), "data": script_json(content)}
    write_file(path, filled(TEMPLATE.read_text(), parts))
