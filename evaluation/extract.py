"""Features of a data set into the cache, on several devices or hosts: python -m evaluation.extract data=... encoder=...

Takes train.py's settings, and json=true to print one JSON object. trainer.devices=4 starts a process for each device of
this machine; under torchrun, SLURM or whatever else Lightning knows, every process that was started takes its part:

    torchrun --nnodes 2 --nproc-per-node 4 ... -m evaluation.extract data=cifar10 encoder=clip cache_dir=/shared/cache \
        trainer.num_nodes=2 trainer.devices=4

The first process decodes a folder's images into the cache (a folder that all of them see) before the others read them
there; data that comes as arrays, such as CIFAR-10, is loaded whole by every process. Each computes its own part of the
features and writes its rows into the one file. What train.py reads later is the same whatever their number.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from datamodules.factors import ImageData
from datamodules.features import FeatureEncoder, Shards, fill, opened
from evaluation.command import aside, command
from evaluation.record import device_of, made
from evaluation.settings import Settings
from models import UserError

__all__ = ["extract_distributed", "main"]

CONFIGS = Path(__file__).parents[1] / "configs"
WAIT = timedelta(days=7)  # for the first process to decode, and for the slowest to end


def ingredients(config: Settings, device: torch.device) -> tuple[ImageData, FeatureEncoder, Shards]:
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


def extract_distributed(config: Settings, fabric: Fabric) -> Shards:
    """The whole cache, each process its part.

    Raises:
        UserError: as `ingredients`; other processes than the settings say; one that did not do its part.
    """
    # The first process goes ahead: it says what is wrong, once, and makes what the others then find.
    parts = ingredients(config, fabric.device) if fabric.is_global_zero else None
    try:
        fabric.launch()
    except ValueError as error:
        raise UserError(f"Expected as many processes as the settings say, got another number: {error}") from error
    data, encoder, shards = parts or ingredients(config, fabric.device)
    own = range(fabric.global_rank, shards.count, fabric.world_size)
    missing = [number for number in own if not shards.intact(number)]
    try:
        fill(data.images, encoder.embed, shards, missing, fabric.device, config.batch, fabric.is_global_zero)
    finally:
        fabric.barrier()  # also where this one failed: the others do not wait for it
    if fabric.is_global_zero and (left := shards.missing()):
        raise UserError(f"Expected every part in {shards.folder}, got {len(left)} missing: run the command again.")
    return shards


def main(arguments: Sequence[str]) -> None:
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", ["+batch=256", "+json=false", *arguments])
    except HydraException as error:
        raise UserError(f"Expected train.py's settings, got: {' '.join(str(error).split())}") from error
    accelerator, wanted = device_of(config).type, config.trainer
    try:
        fabric = Fabric(
            accelerator=accelerator,
            strategy=DDPStrategy(timeout=WAIT),
            devices=wanted.devices,
            num_nodes=wanted.num_nodes,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"Expected trainer.devices and num_nodes that there are, got: {error}") from error
    with aside(config.json):
        shards = extract_distributed(config, fabric)
    (rows, features), file = shards.shape, str(shards.file)
    answer = json.dumps({"rows": rows, "features": features, "file": file})
    fabric.print(answer if config.json else f"Features {rows} x {features}: {file}")


if __name__ == "__main__":
    command(main)
