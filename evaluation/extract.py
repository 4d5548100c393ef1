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
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from evaluation.command import aside, command
from models import UserError
from training.build import device_of
from training.distributed_features import WAIT, extract_distributed
from training.renamed import with_new_names

__all__ = ["main"]

CONFIGS = Path(__file__).parents[1] / "configs"


def main(arguments: Sequence[str]) -> None:
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", ["+batch=256", "+json=false", *with_new_names(arguments)])
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
