"""Archives that are small on disk and large in memory, in every place that reads one."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.celeba import celeba
from datamodules.vectors import vectors
from evaluation.maps.placement import load_reducer
from models import UserError, archives
from models.archives import check_zip
from models.backbones import read_weights
from models.token_matrix import read_tensors
from models.vae import VAE
from training.checkpoints import load_module, resumable

MIB = 2**20


def bomb(path: Path, name: str, sizes: tuple[int, ...] = (6,), start: bytes = b"") -> Path:
    """Write an archive with members of that many MiB of zeros, of which a thousandth is stored."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, size in enumerate(sizes):
            with archive.open(name if number == 0 else f"{number}{name}", "w") as file:
                file.write(start)
                for _ in range(size):
                    file.write(bytes(MIB))
    return path


def npy_header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def of_celeba(folder: Path) -> None:
    celeba(bomb(folder / "img_align_celeba.zip", "000001.jpg").parent)


def of_npz(folder: Path) -> None:
    vectors(bomb(folder / "x.npz", "x.npy", start=npy_header((6 * MIB // 4, 1))))


def of_map(folder: Path) -> None:
    load_reducer(bomb(folder / "reducer.npz", "mean.npy", start=npy_header((6 * MIB // 4,))))


def of_weights(folder: Path) -> None:
    read_weights(bomb(folder / "w.pth", "w/data/0"))


def of_tokens(folder: Path) -> None:
    read_tensors(bomb(folder / "w.pt", "w/data/0"), None)


def of_checkpoint(folder: Path) -> None:
    load_module(VAE, bomb(folder / "vae.ckpt", "vae/data/0"))


def of_partial(folder: Path) -> None:
    resumable(bomb(folder / "vae.partial.ckpt", "vae/data/0"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rule at a hundredth of its size: up to 5 MiB nothing is refused."""
    assert archives.ALWAYS == 256 * MIB
    monkeypatch.setattr(archives, "ALWAYS", 5 * MIB)


@pytest.mark.parametrize(
    "read", [of_celeba, of_npz, of_map, of_weights, of_tokens, of_checkpoint, of_partial], ids=lambda f: f.__name__
)
@pytest.mark.usefixtures("small")
def test_none_is_read(tmp_path: Path, read: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile.ZipExtFile, "read", None)  # no member is opened
    with pytest.raises(UserError, match=r"at most 100 times its size, got .* grows from 0.0 to 6 MiB|a saved map at"):
        read(tmp_path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("lists", [True, False])
def test_a_parquet_that_repeats_one_value(tmp_path: Path, lists: bool) -> None:
    rows = np.zeros((2**15, 64), np.float32) if lists else np.zeros(2**21, np.float32)
    table = {"x": list(rows)} if lists else {"x": rows}
    pd.DataFrame(table).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match="at most 1000 times its size, got .* whose 2,097,152 values come from 0.0 MiB"):
        vectors(tmp_path / "x.parquet")


@pytest.mark.usefixtures("small")
def test_many_small_members_count_together_and_what_people_have_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its content grows from 0.0 to 8 MiB"):
        check_zip(bomb(tmp_path / "many.zip", "x.jpg", (2, 2, 2, 2)))
    check_zip(bomb(tmp_path / "small.zip", "x.jpg", (4,)))
    torch.save({"a": torch.zeros(2 * MIB)}, tmp_path / "zeros.pt")  # stored as they are
    check_zip(tmp_path / "zeros.pt")
    (tmp_path / "text").write_text("PK")
    check_zip(tmp_path / "text")


def test_an_array_that_states_more_than_it_has(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", npy_header((10**12, 8)) + bytes(64))
    with pytest.raises(UserError, match=r"cannot be read as one \(x.npy states the shape \(1000000000000, 8\)"):
        vectors(tmp_path / "x.npz")
