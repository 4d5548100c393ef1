"""What reads texts beside the rows of a source: its own encoder, or else CLIP on the same images."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from jaxtyping import Int64
from omegaconf import OmegaConf
from torch import Tensor

from datamodules.captions import PairData, extract_pairs
from datamodules.features import FeatureData
from evaluation.embeddings.source import Source
from models import UserError
from models.interfaces import TextEncoder
from training.build import is_trained_here
from training.zero_shot_labels import prompt_encoder

__all__ = ["EmbeddedPairs", "pairs_of", "reader_of"]


def reader_of(source: Source, settings: Mapping[str, Any] | None = None) -> Source:
    """The source as it is where its encoder reads texts; else the same rows as CLIP sees them; of pairs the images.

    Raises:
        UserError: a CLIP that cannot be made; vectors of unknown origin.
    """
    data: Any = source.data if source.has_rows else None
    vectors, pairs = isinstance(data, FeatureData), isinstance(data, PairData)
    if pairs and isinstance(data.images, FeatureData) and settings is None:
        found = replace(source)  # brought pairs: their encoder is loaded when a text is asked for
        found.data, found.vectors = data, data.images
        return found
    known_encoder = not vectors if source.run else not is_trained_here(source.config)
    reads = settings is None and known_encoder and isinstance(source.encoder, TextEncoder)
    if reads and not pairs:
        return source
    if vectors:
        raise UserError("Expected encoder= to be the one that made these vectors, got none that reads texts.")
    known: Any = source.config.get("prompt_encoder") or {"_target_": "models.clip.CLIP"}
    asked: Any = settings if settings and "_target_" in settings else OmegaConf.merge(known, settings or {})
    own = {key: source.config.get(key) for key in ("cache_dir", "data", "trainer")}
    config = OmegaConf.create({**own, "encoder": source.config.encoder if reads else asked})
    found = Source(config, source.device, None, source.folder, source.has_rows)
    if reads:
        found.encoder = source.encoder
    else:
        found.encoder = prompt_encoder(asked).to(source.device)
    if source.has_rows:
        found.data = data
    if (embedded := pairs_of(found)) is not None:
        found.vectors = embedded.images
    return found


class EmbeddedPairs(NamedTuple):
    """Images and texts in one space, and which image a text is of."""

    images: FeatureData
    texts: FeatureData
    image_of: Int64[Tensor, " texts"]


def pairs_of(reader: Source) -> EmbeddedPairs | None:
    """The rows as pairs of images and captions, with both embedded, where they are."""
    if not reader.has_rows or not isinstance(reader.data, PairData):
        return None
    encoder = None if isinstance(reader.data.images, FeatureData) else reader.encoder
    found = extract_pairs(reader.data, encoder, reader.config.cache_dir, reader.device)
    assert isinstance(found.images, FeatureData) and isinstance(found.texts, FeatureData)
    return EmbeddedPairs(found.images, found.texts, found.image_of)
