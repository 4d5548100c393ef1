"""Fill the feature cache with several processes that share no rows."""

from datetime import timedelta

import torch
from lightning_fabric import Fabric

from datamodules.factors import ImageData
from datamodules.feature_cache import Shards, fill, opened
from datamodules.features import coded_identity
from models import UserError
from models.interfaces import FeatureEncoder
from training.build import build, is_trained_here
from training.settings import Settings

__all__ = ["WAIT", "extract_distributed"]

WAIT = timedelta(days=7)  # timeout: the first process decodes all images, and all wait for the slowest


def ingredients(config: Settings, device: torch.device) -> tuple[ImageData, FeatureEncoder, Shards]:
    """Build the data, the encoder and the cache of a configuration; every process does so.

    Raises:
        UserError: the data have no images, or the encoder has to be trained first.
    """
    if is_trained_here(config):
        raise UserError("Expected a frozen encoder, got encoder=vae, which is trained first: use train.py model=vae.")
    data = build(config.data)
    if not isinstance(data, ImageData):
        raise UserError("Expected images to compute features of, got vectors: choose other data=.")
    encoder = build(config.encoder).to(device)
    if not isinstance(encoder, FeatureEncoder):
        raise UserError(f"Expected encoder=clip or another of features, got {encoder.identity['name']}.")
    return data, encoder, opened(data, coded_identity(encoder), encoder.embed, config.cache_dir, device)


def extract_distributed(config: Settings, fabric: Fabric) -> Shards:
    """Fill the cache, with every process computing its own part, and return it.

    Raises:
        UserError: see `ingredients`; the number of processes differs from the settings, or a process failed.
    """
    # The first process runs alone at first: errors are printed once, and the others find its decoded images.
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
        fabric.barrier()  # also after an error, so that the others do not wait for this process
    if fabric.is_global_zero and (left := shards.missing()):
        raise UserError(f"Expected every part in {shards.folder}, got {len(left)} missing: run the command again.")
    return shards
