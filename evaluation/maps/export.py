"""Export the points of a map for Embedding Atlas and TensorBoard's embedding projector.

https://github.com/apple/embedding-atlas and https://www.tensorflow.org/tensorboard/tensorboard_projector_plugin. A
table has a row per point and a column `id`; labels, clusters, texts and the like are further columns.
"""

import io
import math
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from datamodules.cache import write_whole
from evaluation.maps.neighbours import Coordinates, Neighbours, Vectors, checked, draw_rows
from evaluation.maps.projection import reduced
from models import UserError
from training.files import harmless, write_file

__all__ = ["atlas_command", "check_columns", "jpeg", "printable", "thumbnails", "write_points", "write_projector"]

AXES = ("projection_x", "projection_y", "projection_z")
RESERVED = {"image", "neighbors", *AXES}
SIDE, QUALITY = 128, 88  # of a point's image: largest side in pixels, JPEG quality
CHUNK = 4096  # rows written at a time
MOST_POINTS, MOST_PIXELS = 100_000, 8192  # limits of TensorBoard: points, side of the sprite in pixels
SPRITE_SIDE = 64  # largest side of a thumbnail in the sprite, in pixels
MOST_NUMBERS, PROJECTOR_WIDTH = 5_000_000, 50  # larger tables load slowly and are reduced to this many components


def thumbnails(images: UInt8[Tensor, "n channels size size"], side: int) -> UInt8[np.ndarray, "n thumb thumb 3"]:
    """Shrink images to RGB thumbnails of at most `side` pixels; smaller images keep their size."""
    images = images.detach().cpu()
    if images.shape[-1] > side:
        images = torch.nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def jpeg(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Encode RGB pixels as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file, "JPEG", quality=QUALITY, subsampling=0
    )  # subsampled colour shows in small images
    return file.getvalue()


def printable(value: object) -> str:
    """Turn a value into valid UTF-8 text; undecodable bytes of a file name become question marks."""
    return str(value).encode(errors="replace").decode()


def image_column(images: UInt8[Tensor, "n channels size size"], ids: pd.Series) -> pa.StructArray:
    """Return images as the Hugging Face hub stores them: structs of bytes and path."""
    encoded = pa.array([jpeg(pixels) for pixels in thumbnails(images, SIDE)], pa.binary())
    return pa.StructArray.from_arrays([encoded, pa.array(map(printable, ids), pa.string())], ["bytes", "path"])


def neighbour_column(found: Neighbours) -> pa.StructArray:
    """Return the neighbours of each row as structs of row numbers, counted from 0, and distances, nearest first."""
    n, k = found.rows.shape
    offsets = pa.array(np.arange(n + 1) * k, pa.int32())
    rows, distances = pa.array(found.rows.ravel(), pa.int64()), pa.array(found.distances.ravel(), pa.float32())
    lists = [pa.ListArray.from_arrays(offsets, values) for values in (rows, distances)]
    return pa.StructArray.from_arrays(lists, ["ids", "distances"])


def column(values: pd.Series) -> pa.Array:
    """Convert a column to Arrow: numbers keep their type, all else becomes text, missing values stay null."""
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        return pa.array(values, from_pandas=True)
    words = values.astype(object).map(printable, na_action="ignore").to_numpy(dtype=object)  # pandas' may be in chunks
    return pa.array(words, pa.string(), from_pandas=True)


def check_columns(table: pd.DataFrame) -> None:
    """Raise UserError where a column has a name that the map's file uses itself."""
    if taken := RESERVED & set(table.columns):
        name = min(taken)
        raise UserError(f"Expected no column {name!r} beside the map's own, got one: rename it in the table.")


def write_points(
    path: Path,
    table: pd.DataFrame,
    coordinates: Coordinates,
    neighbours: Neighbours | None = None,
    images: UInt8[Tensor, "n channels size size"] | None = None,
) -> None:
    """Write a parquet file that Embedding Atlas opens and pandas reads.

    It has the columns of the table, `projection_x`, `projection_y` (`projection_z`) and, where they are given, `image`
    and `neighbors`, which counts rows of the same file.

    Raises:
        UserError: a column of the table has one of these names; the file cannot be written.
    """
    check_columns(table)
    points = checked(coordinates, "euclidean")

    def part(rows: slice) -> pa.Table:
        shown = table.iloc[rows]
        columns = {str(name): column(shown[name]) for name in table.columns}
        columns |= {axis: pa.array(points[rows, i]) for i, axis in enumerate(AXES[: points.shape[1]])}
        if images is not None:
            columns["image"] = image_column(images[rows], shown["id"])
        if neighbours is not None:
            columns["neighbors"] = neighbour_column(Neighbours(*(values[rows] for values in neighbours)))
        return pa.table(columns)

    parts = [slice(start, start + CHUNK) for start in range(0, len(table), CHUNK)]
    try:
        with write_whole(path) as temporary, pq.ParquetWriter(temporary, part(slice(0, 1)).schema) as file:
            for rows in parts:
                file.write_table(part(rows))
    except OSError as error:
        raise UserError(
            f"Expected to write {path}, got {error.strerror or error}: free space there or choose another folder."
        ) from error


def atlas_command(path: Path) -> str:
    """Return the command that opens a file of `write_points` in Embedding Atlas."""
    names = pq.read_schema(path).names
    options = {"x": AXES[0], "y": AXES[1], "text": "text", "image": "image", "neighbors": "neighbors"}
    given = [f"--{option} {name}" for option, name in options.items() if name in names]
    return " ".join(["uvx embedding-atlas", shlex.quote(str(path)), *given])


def sprite(images: UInt8[Tensor, "n channels size size"]) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
    """Tile all images into a square sprite, row by row, and return it with the side of one tile in pixels."""
    across = math.ceil(math.sqrt(len(images)))
    first = thumbnails(images[:1], min(SPRITE_SIDE, MOST_PIXELS // across))
    side = first.shape[1]
    canvas = np.zeros((across, across, side, side, 3), np.uint8)
    for start in range(0, len(images), CHUNK):
        part = thumbnails(images[start : start + CHUNK], side)
        canvas.reshape(-1, side, side, 3)[start : start + len(part)] = part
    return canvas.swapaxes(1, 2).reshape(across * side, across * side, 3), side


def write_tables(folder: Path, values: np.ndarray, table: pd.DataFrame) -> None:
    """Write `tensors.tsv`, and `metadata.tsv`, which has a header only where it has several columns."""
    numbers = io.StringIO()
    np.savetxt(numbers, values, fmt="%.6g", delimiter="\t")
    write_file(folder / "tensors.tsv", numbers.getvalue())
    words = table.astype(object).map(
        lambda value: "" if pd.isna(value) else harmless(" ".join(printable(value).split()) or " ")
    )
    lines = [list(map(str, table.columns))] if len(table.columns) > 1 else []
    lines += words.to_numpy().tolist()
    write_file(folder / "metadata.tsv", "".join("\t".join(line) + "\n" for line in lines))


def write_projector(
    folder: Path,
    vectors: Vectors,
    table: pd.DataFrame,
    images: UInt8[Tensor, "n channels size size"] | None = None,
    seed: int = 0,
) -> list[str]:
    """Write a folder that `tensorboard --logdir` shows under Projector: vectors, table and thumbnails.

    `SummaryWriter.add_embedding` is not used: for 70,000 images it holds the sprite several times as floats, and it
    writes numbers one by one. Above 100,000 points a random sample is written; many wide vectors are reduced to their
    first principal components. The returned notes say which of these happened.

    Raises:
        UserError: vectors that are not finite; the folder cannot be written.
    """
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
    from torch.utils.tensorboard import SummaryWriter

    values, notes = checked(vectors, "euclidean"), []
    rows = draw_rows(len(values), MOST_POINTS, seed)
    if len(rows) < len(values):
        notes.append(f"{len(rows):,} of {len(values):,} points, a random sample: TensorBoard reads no more.")
        values, table = values[rows], table.iloc[rows]
        images = None if images is None else images[torch.from_numpy(rows)]
    if values.size > MOST_NUMBERS and values.shape[1] > PROJECTOR_WIDTH:
        notes.append(f"The first {PROJECTOR_WIDTH} principal components of {values.shape[1]:,} dimensions.")
        values = reduced(values, PROJECTOR_WIDTH, seed)
    write_tables(folder, values, table)
    config = ProjectorConfig()
    info = config.embeddings.add(tensor_name="vectors", tensor_path="tensors.tsv", metadata_path="metadata.tsv")
    if images is not None:
        pixels, side = sprite(images)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        write_file(folder / "sprite.png", file.getvalue())
        info.sprite.image_path = "sprite.png"
        info.sprite.single_image_dim.extend([side, side])
    write_file(folder / "projector_config.pbtxt", text_format.MessageToString(config))
    if not list(folder.glob("events.*")):  # TensorBoard ignores a folder without an event file
        SummaryWriter(str(folder)).close()
    return notes
