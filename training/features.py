"""Build the frozen encoder of a run, and compute its latents or features once."""

from typing import Any

from datamodules.factors import ImageData
from datamodules.features import FeatureData, Latents, check_images, encode, extract
from datamodules.splits import TRAIN
from datamodules.texts import TextData, extract_texts
from models import UserError
from models.interfaces import FeatureEncoder, ImageEncoder, TextEncoder
from training.build import build, device_of, is_trained_here
from training.iin import check_iin
from training.run_folder import Run
from training.settings import Settings
from training.vae import train_vae

__all__ = ["features_of", "frozen_encoder", "latents_of", "text_encoder"]


def frozen_encoder(config: Settings) -> ImageEncoder | FeatureEncoder | None:
    """Build the pretrained encoder of model=iin before the data are loaded; None for other models or a trained VAE.

    Raises:
        UserError: the weights are missing or do not fit, or the encoder does not accept the size.
    """
    edits = config.model.name == "iin" and not is_trained_here(config)
    return build(config.encoder) if edits else None


def image_encoder(
    config: Settings, data: ImageData, run: Run, frozen: ImageEncoder | FeatureEncoder | None = None
) -> ImageEncoder | FeatureEncoder:
    """Return the frozen encoder that the configuration names; Facet's own VAE is trained first.

    Raises:
        UserError: the settings of the IIN do not fit the latents; this is checked before any training.
    """
    if is_trained_here(config):
        if not config.encoder.checkpoint:
            check_iin(config, data.factors[data.rows(TRAIN)], build(config.vae, flip=False).latent_shape)
        encoder: Any = train_vae(config, data, run)
    else:
        encoder = build(config.encoder) if frozen is None else frozen
    if isinstance(encoder, ImageEncoder):
        check_iin(config, data.factors[data.rows(TRAIN)], encoder.latent_shape)
    return encoder.to(device_of(config))


def latents_of(
    config: Settings, data: ImageData, run: Run, frozen: ImageEncoder | FeatureEncoder | None = None
) -> tuple[ImageEncoder, Latents]:
    """Return the encoder of a model that edits images, `frozen` or trained here, and the latents of all images.

    Raises:
        UserError: the images do not suit the encoder, or it has no decoder.
    """
    if is_trained_here(config) and not config.encoder.checkpoint:
        check_images(data, config.vae.size)  # checked before the VAE is trained
    encoder = image_encoder(config, data, run, frozen)
    if not isinstance(encoder, ImageEncoder):
        raise UserError(
            f"Expected an encoder whose latents can be decoded for model={config.model.name}, got "
            f"{encoder.identity['name']}: set encoder=vae, taesd or sd_vae."
        )
    device = device_of(config)
    run.manifest(data, encoder.identity, config.seed, str(device))
    with run.stage("encode", len(data.images)):
        return encoder, encode(data, encoder, config.cache_dir, device)


def text_encoder(config: Settings) -> Any:
    """Build the frozen encoder of texts that the configuration names.

    Raises:
        UserError: the encoder does not embed texts, or has to be trained first.
    """
    if is_trained_here(config):
        raise UserError("Expected a frozen encoder of texts, got vae: set encoder=sentence or encoder=clip.")
    encoder = build(config.encoder).to(device_of(config))
    if not isinstance(encoder, TextEncoder):
        raise UserError(f"Expected an encoder of texts, got {encoder.identity['name']}: set encoder=sentence or clip.")
    return encoder


def features_of(config: Settings, data: ImageData | TextData | FeatureData, run: Run) -> FeatureData:
    """Return the features to cluster or reduce: those of a frozen encoder, or the vectors themselves.

    Raises:
        UserError: the encoder does not accept this data.
    """
    device = device_of(config)
    if isinstance(data, FeatureData):
        run.manifest(data, None, config.seed, str(device))
        return data
    encoder: Any = text_encoder(config) if isinstance(data, TextData) else image_encoder(config, data, run)
    run.manifest(data, encoder.identity, config.seed, str(device))
    extracted: Any = extract_texts if isinstance(data, TextData) else extract
    with run.stage("encode", len(data.ids)):
        return extracted(data, encoder, config.cache_dir, device)
