from pathlib import Path

import pytest
import torch

from datamodules.factors import FactorTable, ImageData
from datamodules.features import Batches, encode
from models import UserError


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
    assert encoder.encoded == 50
    assert torch.equal(again.mean, latents.mean)


def test_other_weights_or_data_are_encoded_anew(tmp_path: Path) -> None:
    encode(images(), Mean("a"), tmp_path)
    other = Mean("b")
    encode(images(), other, tmp_path)
    assert other.encoded == 50


def test_an_interrupted_extraction_goes_on_at_its_shard(tmp_path: Path) -> None:
    encoder = Mean()
    encoder.fail_after = 32
    with pytest.raises(KeyboardInterrupt):
        encode(images(), encoder, tmp_path, batch=16, shard=16)
    encoder.fail_after = 10**9
    latents = encode(images(), encoder, tmp_path, batch=16, shard=16)
    assert encoder.encoded == 50
    torch.testing.assert_close(latents.mean, images().images.float().mean((2, 3)))


def test_a_damaged_shard_is_said_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latents = encode(images(), Mean(), tmp_path, shard=16)
    shard = sorted(tmp_path.rglob("*.npz"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 255
    shard.write_bytes(content)
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
    with pytest.raises(UserError, match="got File too large at .*set cache_dir=") as caught:
        encode(images(2000), Mean(), tmp_path)
    assert "\n" not in str(caught.value)
    (folder,) = (tmp_path / "latents").iterdir()
    assert list(folder.iterdir()) == []


def test_batches_pass_over_every_row_and_depend_on_the_epoch_alone() -> None:
    batches = Batches({"x": torch.arange(10)}, 4, seed=0, rows=torch.arange(10), steps=5)
    seen = torch.cat([batch["x"] for batch in batches])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    batches.set_epoch(1)
    second = torch.cat([batch["x"] for batch in batches])
    fresh = Batches({"x": torch.arange(10)}, 4, seed=0, rows=torch.arange(10), steps=5)
    fresh.set_epoch(1)
    assert torch.equal(torch.cat([batch["x"] for batch in fresh]), second)
    assert not torch.equal(second, seen)
