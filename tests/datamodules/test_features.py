import dataclasses
import errno
import json
import os
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from datamodules.batches import row_batches
from datamodules.factors import FactorTable, ImageData
from datamodules.feature_cache import Shards
from datamodules.features import as_read, encode, enlarged, extract
from models import UserError
from models.backbones import Torchvision
from models.labels import Factor


class Mean:
    """An encoder whose latents are the three channels' means; it counts what it encodes."""

    size, latent_shape = 8, (3,)

    def __init__(self, sha: str = "a") -> None:
        self.sha, self.encoded, self.fail_after = sha, 0, 10**9

    @property
    def identity(self) -> dict:
        return {"name": "mean", "sha256": self.sha}

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.encoded >= self.fail_after:
            raise KeyboardInterrupt
        self.encoded += len(images)
        mean = images.float().mean((2, 3))
        return mean, torch.zeros_like(mean)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Sums:
    """A feature encoder: the sums of rows of pixels."""

    identity: dict[str, str | int | float | bool] = {"name": "sums", "sha256": "c"}

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().sum((1, 3))


def images(n: int = 50, size: int = 8) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
    table = FactorTable((), torch.zeros(n, 0))
    return ImageData("test", pixels, [str(i) for i in range(n)], table, torch.zeros(n, dtype=torch.uint8), "print")


def test_latents_are_the_encoders_and_computed_once(tmp_path: Path) -> None:
    data, encoder = images(), Mean()
    latents = encode(data, encoder, tmp_path, shard=16)
    torch.testing.assert_close(latents.mean, data.images.float().mean((2, 3)))
    again = encode(data, encoder, tmp_path, shard=16)
    assert encoder.encoded == 51
    assert torch.equal(again.mean, latents.mean)


def test_other_weights_or_data_are_encoded_anew(tmp_path: Path) -> None:
    encode(images(), Mean("a"), tmp_path)
    other = Mean("b")
    encode(images(), other, tmp_path)
    assert other.encoded == 51


def test_an_interrupted_extraction_goes_on_at_its_shard(tmp_path: Path) -> None:
    encoder = Mean()
    encoder.fail_after = 33  # the first one tells the width
    with pytest.raises(KeyboardInterrupt):
        encode(images(), encoder, tmp_path, batch=16, shard=16)
    encoder.fail_after = 10**9
    latents = encode(images(), encoder, tmp_path, batch=16, shard=16)
    assert encoder.encoded == 51
    torch.testing.assert_close(latents.mean, images().images.float().mean((2, 3)))


def test_a_damaged_shard_is_said_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latents = encode(images(), Mean(), tmp_path, shard=16)
    (file,) = tmp_path.rglob("features.npy")
    content = bytearray(file.read_bytes())
    content[-20 * 6 * 4] ^= 255  # of row 30
    file.write_bytes(content)
    encoder = Mean()
    again = encode(images(), encoder, tmp_path, shard=16)
    assert encoder.encoded == 16 and torch.equal(again.mean, latents.mean)
    assert "damaged" in capsys.readouterr().out


def test_images_of_another_size_and_an_unwritable_cache_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected 8x8 images.*got 16x16.*data.size=8"):
        encode(images(size=16), Mean(), tmp_path)
    (tmp_path / "file").touch()
    encoder = Mean()
    with pytest.raises(UserError, match="got Not a directory at .*set cache_dir=") as caught:
        encode(images(), encoder, tmp_path / "file" / "below")
    assert "\n" not in str(caught.value) and encoder.encoded == 0


@pytest.mark.usefixtures("no_room")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="File too large at .*set cache_dir=") as caught:
        encode(images(2000), Mean(), tmp_path)
    assert "\n" not in str(caught.value)
    (folder,) = (tmp_path / "features").iterdir()
    assert not [path for path in folder.rglob("*") if path.suffix in (".npy", ".sha256", ".tmp")]


def test_features_lie_in_one_memory_mapped_file_beside_ids_and_labels(tmp_path: Path) -> None:
    data = images()
    table = FactorTable((Factor("kind", "categorical", ("a", "b", "c"), ""),), torch.arange(50.0)[:, None] % 3)
    data = dataclasses.replace(data, factors=table)
    features = extract(data, Sums(), tmp_path, batch=8, shard=16)
    torch.testing.assert_close(features.values, data.images.float().sum((1, 3)))
    assert features.ids == data.ids and features.images is data.images
    (file,) = tmp_path.rglob("features.npy")
    assert torch.equal(torch.from_numpy(np.load(file)), features.values)
    assert isinstance(np.load(file, mmap_mode="r"), np.memmap)
    rows = pd.read_parquet(file.with_name("rows.parquet"))
    assert rows["id"].tolist() == data.ids and rows["label/kind"].tolist() == table.values[:, 0].tolist()
    manifest = json.loads(file.with_name("manifest.json").read_text())
    assert manifest["shape"] == [50, 8] and Sums.identity.items() <= manifest["encoder"].items()


def test_features_of_an_encoder_with_a_decoder_are_its_means(tmp_path: Path) -> None:
    features = extract(images(), Mean(), tmp_path)
    assert torch.equal(features.values, encode(images(), Mean(), tmp_path).mean)


def test_a_full_disk_in_the_middle_keeps_the_shards_that_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Shards.write

    def full(self: Shards, number: int, features: torch.Tensor) -> None:
        if number == 2:
            monkeypatch.setattr(os, "fsync", fail)
        write(self, number, features)

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Shards, "write", full)
    with pytest.raises(UserError, match="Expected a cache folder to write to, got No space left on device at"):
        extract(images(), Sums(), tmp_path, shard=16)
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("*.sha256"))) == 2
    expected = images().images.float().sum((1, 3))
    torch.testing.assert_close(extract(images(), Sums(), tmp_path, shard=16).values, expected)


def test_a_cache_that_was_cut_short_is_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = extract(images(), Sums(), tmp_path).values.clone()
    (file,) = tmp_path.rglob("features.npy")
    file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(extract(images(), Sums(), tmp_path).values, expected)
    assert "damaged and are computed again" in capsys.readouterr().out


def test_memory_holds_one_shard_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the encoder and the reader of images gave, however many images there are."""
    alive: dict[str, list[weakref.ref[torch.Tensor]]] = {"features": [], "images": []}
    most = {"features": 0, "images": 0}

    class Watched(Sums):
        def embed(self, images: torch.Tensor) -> torch.Tensor:
            features = super().embed(images)
            for name, tensor in (("images", images), ("features", features)):
                alive[name].append(weakref.ref(tensor))
                held = [reference() for reference in alive[name]]
                most[name] = max(most[name], sum(len(tensor) for tensor in held if tensor is not None))
            return features

    extract(images(160), Watched(), tmp_path, batch=8, shard=16)
    assert len(alive["features"]) == 21 and most["features"] == 16 and most["images"] <= 16


def test_labels_that_changed_are_written_again(tmp_path: Path) -> None:
    """The cache is of the images: what is said of them elsewhere may change."""
    column = Factor("kind", "categorical", ("a", "b", "c"), "")
    labels = [torch.arange(50.0)[:, None] % 3, torch.arange(50.0)[:, None] % 2]
    written = []
    for values in (labels[0], labels[1], labels[1]):
        data = dataclasses.replace(images(), factors=FactorTable((column,), values))
        extract(data, Sums(), tmp_path)
        (file,) = tmp_path.rglob("rows.parquet")
        assert pd.read_parquet(file)["label/kind"].tolist() == values[:, 0].tolist()
        written.append(file.stat().st_ino)  # a file that is written again is another one
    assert written[0] != written[1] == written[2]


def test_grey_images_of_another_size_are_read_resized_and_as_rgb(tmp_path: Path) -> None:
    """Features are computed of them; what decodes latents would give other images than these."""
    data = images(size=16)
    data = dataclasses.replace(data, images=data.images[:, :1])
    features = extract(data, Mean(), tmp_path)
    assert features.images is data.images
    read = as_read(data.images, 8)
    assert read.shape == (50, 3, 8, 8) and read.dtype == torch.uint8 and torch.equal(read[:, 0], read[:, 2])
    ours, pillows = (
        read[0, 0].numpy(),
        Image.fromarray(data.images[0, 0].numpy()).resize((8, 8), Image.Resampling.BICUBIC),
    )
    assert abs(ours.astype(int) - np.asarray(pillows)).max() <= 1
    torch.testing.assert_close(features.values, read.float().mean((2, 3)))
    with pytest.raises(UserError, match="Expected RGB images, as the encoder reads, got grey ones: cluster them or"):
        encode(data, Mean(), tmp_path)


def test_batches_pass_over_every_row_and_depend_on_the_epoch_alone() -> None:
    batches = row_batches({"x": torch.arange(10)}, 4, seed=0, rows=torch.arange(10), steps=5)
    seen = torch.cat([batch["x"] for batch in batches])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    batches.set_epoch(1)
    second = torch.cat([batch["x"] for batch in batches])
    fresh = row_batches({"x": torch.arange(10)}, 4, seed=0, rows=torch.arange(10), steps=5)
    fresh.set_epoch(1)
    assert torch.equal(torch.cat([batch["x"] for batch in fresh]), second)
    assert not torch.equal(second, seen)


def test_images_that_are_enlarged_for_the_encoder_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert enlarged(224, Torchvision("resnet18", "random")) == []
    (note,) = enlarged(64, Torchvision("resnet18", "random"))
    assert note.startswith("Images of 64 pixels are enlarged to 224 for the encoder: data.size=224 keeps")
    assert note in capsys.readouterr().out
