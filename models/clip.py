"""CLIP as a frozen encoder, through open_clip: any of its models, image and text towers, layers by name.

A weights file states neither the activation nor the preprocessing that it was trained with, and with the wrong ones
features get worse without an error (open_clip's issues 771, 915 and 1068). Here both come from the tag or the folder,
or are given as options, and they are part of the encoder's identity.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from models import check_choice
from models.backbones import Backbone
from models.clip_weights import (
    RESIZE,
    choose_activation,
    find_source,
    load_model,
    load_tokenizer,
    preprocessing,
    triple,
)
from models.precision import half_precision
from models.text_length import token_ids
from models.weights import weights_sha256

__all__ = ["CLIP"]


class CLIP(Backbone):
    """A CLIP model (Radford et al. 2021, https://arxiv.org/abs/2103.00020; https://github.com/mlfoundations/open_clip).

    Args:
        architecture: its name in open_clip, such as "ViT-B-32"; ignored if weights is a folder, which states it.
        weights: a tag of the architecture's published weights, such as "openai"; a file; a folder with
            open_clip_config.json and the weights; or "random".
        quick_gelu: whether the weights were trained with the activation x * sigmoid(1.702 x) in place of GELU; null
            for tags and folders, which state it. A file does not.
        layer: name of a layer, such as "visual.transformer.resblocks.5"; null for the image embedding.
        normalize: scale features to unit length, because CLIP's features are compared by their cosine.
        mean: mean of R, G and B in [0, 1], which is subtracted from the image; null for that of the weights' training,
            as for the next three.
        std: standard deviation of R, G and B, which the image is divided by.
        interpolation: "bicubic" or "bilinear".
        resize: which side of an image is resized to the model's: "shortest", "longest", or both, "squash".
    """

    tower = "visual"

    def __init__(self, architecture: str = "ViT-B-32", weights: str | None = "openai", quick_gelu: bool | None = None,
                 layer: str | None = None, normalize: bool = True, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, interpolation: str | None = None,
                 resize: str | None = None) -> None:  # fmt: skip
        check_choice("encoder.interpolation", interpolation, [None, "bicubic", "bilinear"])
        check_choice("encoder.resize", resize, [None, *RESIZE])
        values = {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize}
        given = {name: value if isinstance(value, str) else triple(name, value)
                 for name, value in values.items() if value is not None}  # fmt: skip

        source = find_source(architecture, weights, given)
        activation = choose_activation(source, quick_gelu)
        model = load_model(source, activation)
        prepare = preprocessing(model, source, given)
        self.normalize, self.source_model = normalize, source.model
        super().__init__(model, prepare, layer, {
            "name": "clip",
            "architecture": source.architecture,
            "weights": source.weights,
            "sha256": weights_sha256(model.state_dict()),
            "quick_gelu": activation,
            "normalize": normalize,
        })  # fmt: skip

    def forward(self, x: Float[Tensor, "batch 3 crop crop"]) -> Tensor:
        return self.network.encode_image(x, normalize=False)

    def embed(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Encode grey or colour images of any size, on the images' device."""
        features = super().embed(images)
        return F.normalize(features, dim=1) if self.normalize else features

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.source_model)

    @property
    def token_limit(self) -> int:
        """The number of tokens that are read of a text, 77 for most models."""
        return int(self.tokenizer.context_length)

    def tokens(self, texts: list[str]) -> list[list[int]]:
        """Return all tokens of texts, also those beyond the limit."""
        tokenizer = self.tokenizer
        if hasattr(tokenizer, "tokenizer"):  # of the package transformers
            return token_ids(tokenizer.tokenizer, [tokenizer.clean_fn(text) for text in texts])
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        return [[start, *tokenizer.encode(text), end] for text in texts]

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        """Embed texts in the space of the image embeddings, whatever `layer` is; long texts are truncated."""
        device = next(self.parameters()).device
        with half_precision(device, on_cpu=False):
            parts = [self.network.encode_text(self.tokenizer(texts[i : i + 256]).to(device), normalize=False)
                     for i in range(0, len(texts), 256)]  # fmt: skip
        features = torch.cat(parts).float()
        return F.normalize(features, dim=1) if self.normalize else features
