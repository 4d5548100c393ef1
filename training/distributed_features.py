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

WAIT = timedelta(days=7)  # for the first process to decode, and for the slowest to end


def ingredients(config: Settings, device: torch.device) -> tuple[ImageData, FeatureEncoder, Shards]:
    """Data, encoder and cache of a configuration; every process makes its own.

    Raises:
        UserError: data without images, or an encoder that is trained first.
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
