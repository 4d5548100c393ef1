"""Files for other programs: read back as those programs read them."""

import csv
import io
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor

from evaluation.maps import export as points
from evaluation.maps.export import atlas_command, sprite, thumbnails, write_points, write_projector
from evaluation.maps.neighbours import nearest_rows
from models import UserError

N = 10


def table() -> pd.DataFrame:
    columns = {
        "id": pd.Series([f"images/{i}.png" for i in range(N - 1)] + ["caf\udce9"], dtype=object),
        "label": pd.Series(["cat", "dog"] * 5).where(np.arange(N) != 3),
        "cluster": pd.Categorical.from_codes(np.arange(N) % 3, ["0", "1", "2"]),
        "size": np.where(np.arange(N) == 4, np.nan, np.arange(N) / 2),
        "text": [f"a\tsentence,\nnumber {i}" for i in range(N)],
    }
    return pd.DataFrame(columns)


def vectors(n: int = N, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def greys(n: int = N, side: int = 16, channels: int = 1) -> Tensor:
    """Image i is all of grey 20 i."""
    return (20 * torch.arange(n) % 256).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, channels, side, side)


def test_thumbnails_are_as_large_as_asked_at_most() -> None:
    for side, channels, thumb in ((16, 1, 16), (16, 3, 16), (50, 3, 20)):
        made = thumbnails(greys(side=side, channels=channels), 20)
        assert made.shape == (N, thumb, thumb, 3) and (made[:, 3, 5] == 20 * np.arange(N)[:, None]).all()
    half = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(20).expand(1, 3, 40, 40)
    shown = thumbnails(half, 20)[0, 0, :, 0]
    assert (shown[:9] == 0).all() and (shown[11:] == 255).all() and 0 < shown[9] < shown[10] < 255


@pytest.mark.parametrize("chunk", [4096, 3])
def test_the_parquet_file_is_what_embedding_atlas_reads(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "CHUNK", chunk)
    path = tmp_path / "out" / "points.parquet"
    found = nearest_rows(vectors(), 4)
    write_points(path, table(), vectors(width=3), found, greys())
    schema = pq.read_schema(path)
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert schema.field("neighbors").type == pa.struct(
        [("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))]
    )
    assert [schema.field(name).type for name in ("id", "text", "label", "cluster", "size", "projection_z")] == [
        *[pa.string()] * 4, pa.float64(), pa.float32(),
    ]  # fmt: skip
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == N and [file.name for file in path.parent.iterdir()] == ["points.parquet"]
    for i, row in enumerate(rows):
        assert [row["projection_x"], row["projection_y"], row["projection_z"]] == vectors(width=3)[i].tolist()
        assert row["neighbors"]["ids"] == found.rows[i].tolist() and i not in row["neighbors"]["ids"]
        assert row["neighbors"]["distances"] == sorted(row["neighbors"]["distances"]) == found.distances[i].tolist()
        assert row["cluster"] == str(i % 3) and row["text"] == f"a\tsentence,\nnumber {i}"
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.format == "JPEG" and np.abs(np.asarray(image).astype(int) - 20 * i).max() < 6
        assert row["image"]["path"] == row["id"] == (f"images/{i}.png" if i < N - 1 else "caf?")
    assert rows[3]["label"] is None and rows[4]["size"] is None and rows[0]["label"] == "cat"
    assert pd.read_parquet(path)["neighbors"][2]["ids"].tolist() == found.rows[2].tolist()


def test_the_command_names_only_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "my points.parquet"
    write_points(path, table()[["id", "label"]], vectors(width=2))
    assert set(pq.read_schema(path).names) == {"id", "label", "projection_x", "projection_y"}
    command = ["uvx", "embedding-atlas", str(path), "--x", "projection_x", "--y", "projection_y"]
    assert shlex.split(atlas_command(path)) == command
    write_points(path, table(), vectors(width=2), nearest_rows(vectors(), 2), greys())
    more = ["--text", "text", "--image", "image", "--neighbors", "neighbors"]
    assert shlex.split(atlas_command(path)) == command + more


def test_points_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected no column 'image' beside the map's own, got one: rename it"):
        write_points(tmp_path / "p.parquet", table().rename(columns={"label": "image"}), vectors(width=2))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Expected to write .*p.parquet, got"):
        write_points(tmp_path / "file" / "p.parquet", table(), vectors(width=2))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("n", "side", "thumb", "across"), [(10, 16, 16, 4), (9, 16, 16, 3), (26, 80, 40, 6)])
def test_a_sprite_is_a_square_that_fits(
    n: int, side: int, thumb: int, across: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "MOST_PIXELS", 245)
    monkeypatch.setattr(points, "CHUNK", 7)
    pixels, found = sprite(greys(n, side))
    assert found == thumb and pixels.shape == (across * thumb, across * thumb, 3) and pixels.shape[0] <= 245
    for i in range(across**2):
        place = pixels[i // across * thumb : (i // across + 1) * thumb, i % across * thumb : (i % across + 1) * thumb]
        assert (place == (20 * i % 256 if i < n else 0)).all()


def projector(folder: Path) -> tuple[np.ndarray, list[list[str]], ProjectorConfig]:
    """Numbers, lines and settings of a projector folder."""
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (info,) = config.embeddings
    numbers = np.loadtxt(folder / info.tensor_path, delimiter="\t", dtype=np.float32)
    with (folder / info.metadata_path).open(newline="") as file:
        return numbers, list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)), config


def test_the_projector_has_a_line_and_a_thumbnail_for_each_vector(tmp_path: Path) -> None:
    assert write_projector(tmp_path / "projector", vectors(), table(), greys()) == []
    numbers, lines, config = projector(tmp_path / "projector")
    assert numbers == pytest.approx(vectors(), rel=1e-5)
    assert lines[0] == ["id", "label", "cluster", "size", "text"] and len(lines) == N + 1
    assert lines[1] == ["images/0.png", "cat", "0", "0.0", "a sentence, number 0"]
    assert lines[4][1] == "" and lines[5][3] == "" and lines[N][0] == "caf?"
    assert list(config.embeddings[0].sprite.single_image_dim) == [16, 16]
    with Image.open(tmp_path / "projector" / config.embeddings[0].sprite.image_path) as image:
        assert image.size == (64, 64) and image.getpixel((20, 20)) == (100, 100, 100)
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Runs()
    assert list(runs) == ["projector"], "TensorBoard looks for what is no run only where there is none"


def test_a_single_column_has_no_header(tmp_path: Path) -> None:
    for _ in range(2):  # a second time over the first
        write_projector(tmp_path, vectors(), table()[["id"]])
    _, lines, config = projector(tmp_path)
    assert lines[0] == ["images/0.png"] and len(lines) == N and not config.embeddings[0].HasField("sprite")
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_what_tensorboard_cannot_show_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "MOST_POINTS", 6)
    monkeypatch.setattr(points, "MOST_NUMBERS", 20)
    monkeypatch.setattr(points, "PROJECTOR_WIDTH", 4)
    notes = write_projector(tmp_path, vectors(), table(), greys(), seed=2)
    assert notes == [
        "6 of 10 points, a random sample: TensorBoard reads no more.",
        "The first 4 principal components of 6 dimensions.",
    ]
    numbers, lines, _ = projector(tmp_path)
    assert numbers.shape == (6, 4) and len(lines) == 7
    rows = [int(line[0][7:-4]) if line[0] != "caf?" else N - 1 for line in lines[1:]]
    assert rows == sorted(rows) != list(range(6))
    shown = np.linalg.norm(numbers[:, None] - numbers[None], axis=2)
    true = np.linalg.norm(vectors()[rows][:, None] - vectors()[rows][None], axis=2)
    assert np.corrcoef(shown.ravel(), true.ravel())[0, 1] > 0.9, "other rows than the table's"
    with Image.open(tmp_path / "sprite.png") as image:
        assert np.asarray(image)[8::16, 8::16, 0].ravel()[:6].tolist() == [20 * row for row in rows]


def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NaN or infinity in 1 of 10"):
        write_projector(tmp_path, np.where(np.arange(N)[:, None] == 2, np.float32(np.nan), vectors()), table())
    assert not list(tmp_path.iterdir())
