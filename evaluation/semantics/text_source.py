"""Open a source whose encoder embeds texts in the space of its rows: its own encoder, or else CLIP on the images."""

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
    """Return the source itself if its encoder reads texts; else the same rows embedded by CLIP; of pairs the images.

    Raises:
        UserError: a CLIP that cannot be built; vectors of an unknown encoder.
    """
    data: Any = source.data if source.has_rows else None
    vectors, pairs = isinstance(data, FeatureData), isinstance(data, PairData)
    if pairs and isinstance(data.images, FeatureData) and settings is None:
        found = replace(source)  # pairs of vectors: their encoder is loaded when a text is embedded
        found.data, found.vectors = data, data.images
        return found
    known_encoder = not vectors if source.run else not is_trained_here(source.config)
    reads = settings is None and known_encoder and isinstance(source.encoder, TextEncoder)
    if reads and not pairs:
        return source
    if vectors:
        raise UserError("Expected encoder= to be the encoder of these vectors, got none that reads texts: name it.")
    known: Any = source.config.get("prompt_encoder") or {"_target_": "models.clip.CLIP"}
    clip: Any = settings if settings and "_target_" in settings else OmegaConf.merge(known, settings or {})
    own = {key: source.config.get(key) for key in ("cache_dir", "data", "trainer")}
    config = OmegaConf.create({**own, "encoder": source.config.encoder if reads else clip})
    found = Source(config, source.device, None, source.folder, source.has_rows)
    if reads:
        found.encoder = source.encoder
    else:
        found.encoder = prompt_encoder(clip).to(source.device)
    if source.has_rows:
        found.data = data
    if (embedded := pairs_of(found)) is not None:
        found.vectors = embedded.images
    return found


class EmbeddedPairs(NamedTuple):
    """Images and texts embedded in one space, and the image of each text."""

    images: FeatureData
    texts: FeatureData
    image_of: Int64[Tensor, " texts"]


def pairs_of(reader: Source) -> EmbeddedPairs | None:
    """Return the embedded pairs of images and captions; None where the rows are no pairs."""
    if not reader.has_rows or not isinstance(reader.data, PairData):
        return None
    encoder = None if isinstance(reader.data.images, FeatureData) else reader.encoder
    found = extract_pairs(reader.data, encoder, reader.config.cache_dir, reader.device)
    assert isinstance(found.images, FeatureData) and isinstance(found.texts, FeatureData)
    return EmbeddedPairs(found.images, found.texts, found.image_of)
