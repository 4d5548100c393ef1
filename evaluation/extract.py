"""Features of a data set into the cache, on several devices or hosts: python -m evaluation.extract data=... encoder=...

Takes train.py's settings. trainer.devices=4 starts a process for each device of this machine; under torchrun, SLURM or
whatever else Lightning knows, every process that was started takes its part:

    torchrun --nnodes 2 --nproc-per-node 4 ... -m evaluation.extract data=cifar10 encoder=clip cache_dir=/shared/cache

Every process reads all file names and its own part of the images, and writes its rows into the one file of the cache
(a folder that all of them see). What train.py reads later is the same whatever the number of processes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.factors import ImageData
from datamodules.features import FeatureEncoder, Shards, fill, opened
from evaluation.command import command
from evaluation.fitting import device_of
from evaluation.record import made
from evaluation.settings import Settings
from models import UserError

__all__ = ["Extraction", "extract_distributed", "main"]

CONFIGS = Path(__file__).parents[1] / "configs"


def ingredients(config: Settings, device: torch.device | str) -> tuple[ImageData, FeatureEncoder, Shards]:
    """Data, encoder and cache of a configuration; every process makes its own.

    Raises:
        UserError: data without images, or an encoder that is trained first.
    """
    if config.encoder.get("name") == "vae":
        raise UserError("Expected a frozen encoder, got encoder=vae, which is trained first: use train.py model=vae.")
    data = made(config.data)
    if not isinstance(data, ImageData):
        raise UserError("Expected images to compute features of, got vectors: choose other data=.")
    encoder = made(config.encoder).to(device)
    if not isinstance(encoder, FeatureEncoder):
        raise UserError(f"Expected encoder=clip or another of features, got {encoder.identity['name']}.")
    return data, encoder, opened(data, encoder.identity, encoder.embed, config.cache_dir, device)


class Extraction(pl.LightningModule):
    """A shard of the features a step, of the part and on the device that Lightning gives this process."""

    def __init__(self, images: Tensor, encoder: Any, shards: Shards, batch: int) -> None:
        super().__init__()
        self.images, self.encoder, self.shards, self.batch = images, encoder, shards, batch

    def predict_dataloader(self) -> DataLoader[Any]:
        # All of them, whole or not: what one process has written must not change what another takes for its part.
        return DataLoader(range(self.shards.count), batch_size=1)  # type: ignore[arg-type]  # is a data set

    def predict_step(self, numbers: Tensor, index: int) -> None:
        missing = [number for number in numbers.tolist() if not self.shards.intact(number)]
        shown = self.trainer.is_global_zero
        fill(self.images, self.encoder.embed, self.shards, missing, self.device, self.batch, shown)


def extract_distributed(config: Settings) -> Shards:
    """The whole cache, each process its part.

    Raises:
        UserError: as `ingredients`; a process that did not do its part.
    """
    device = device_of(config)
    data, encoder, shards = ingredients(config, device)
    trainer = pl.Trainer(
        accelerator=device.type.replace("cuda", "gpu"), devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes, strategy="ddp", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.predict(Extraction(data.images, encoder, shards, config.batch), return_predictions=False)
    if trainer.is_global_zero and (missing := shards.missing()):
        raise UserError(f"Expected every part in {shards.folder}, got {len(missing)} missing: run the command again.")
    return shards


def main(arguments: Sequence[str]) -> None:
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", ["+batch=256", *arguments])
    except HydraException as error:
        raise UserError(f"Expected train.py's settings, got: {' '.join(str(error).split())}") from error
    shards = extract_distributed(config)
    print(f"Features {shards.shape[0]} x {shards.shape[1]}: {shards.file}")


if __name__ == "__main__":
    command(main)
