r"""Compute features into the cache, on several devices or hosts: python -m evaluation.extract data=... encoder=...

The settings are those of train.py. trainer.devices=4 starts a process for each device of this machine; under torchrun,
SLURM or another launcher that Lightning knows, every process that was started computes its part:

    torchrun --nnodes 2 --nproc-per-node 4 ... -m evaluation.extract data=cifar10 encoder=clip cache_dir=/shared/cache \
        trainer.num_nodes=2 trainer.devices=4

The first process decodes the images of a folder into the cache, which all processes share, before the others read them
from there; data that comes as arrays, such as CIFAR-10, is loaded whole by every process. Each process computes its own
part of the features and writes its rows into the one file. train.py reads the same features whatever the number of
processes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from evaluation.command import command, json_only, option
from models import UserError
from training.build import device_of
from training.distributed_features import WAIT, extract_distributed
from training.renamed import with_new_names

__all__ = ["Options", "main"]

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass
class Options:
    """Options beside the settings of train.py, given as key=value."""

    batch: int = option(256, "images or texts per forward pass of the encoder")
    json: bool = option(False, "print one JSON object: rows, features, file")


def main(arguments: Sequence[str]) -> None:
    """Compute the features, and print their number and their file."""
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", [f"+batch={Options.batch}", "+json=false", *with_new_names(arguments)])
    except HydraException as error:
        raise UserError(f"Expected train.py's settings, got: {' '.join(str(error).split())}") from error
    accelerator, trainer = device_of(config).type, config.trainer
    try:
        fabric = Fabric(
            accelerator=accelerator,
            strategy=DDPStrategy(timeout=WAIT),
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"Expected available trainer.devices and trainer.num_nodes, got: {error}") from error
    with json_only(config.json):
        shards = extract_distributed(config, fabric)
    (rows, features), file = shards.shape, str(shards.file)
    answer = json.dumps({"rows": rows, "features": features, "file": file})
    fabric.print(answer if config.json else f"Features {rows} x {features}: {file}")


if __name__ == "__main__":
    command(main, Options)
