"""Protocols of encoders, editors and judges: the methods that the evaluation calls; see docs/architecture.md."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = [
    "Editor",
    "Embed",
    "FaceEmbedder",
    "FactorReader",
    "FeatureEncoder",
    "Identity",
    "ImageEncoder",
    "ImageJudge",
    "JudgeCommittee",
    "ReadingEditor",
    "TextEncoder",
]

# Maps images in [0, 1] to face embeddings.
FaceEmbedder = Callable[[Float[Tensor, "batch 3 size size"]], Float[Tensor, "batch embedding"]]


@runtime_checkable
class Editor(Protocol):
    """Changes one factor of latents; `value` is in the factor's own unit. See docs/architecture.md."""

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor: ...


@runtime_checkable
class ImageJudge(Protocol):
    """Predicts each factor's value from images, as `models.factor_classifier.Judge` does; tests use a perfect one."""

    def read(self, images: Tensor) -> Tensor: ...


@runtime_checkable
class JudgeCommittee(Protocol):
    """Several judges of different kinds.

    With a method `vote(members)`, which turns the members' predictions into those of `read`, each image is read once.
    """

    @property
    def names(self) -> Sequence[str]: ...
    def read(self, images: Tensor) -> Tensor: ...  # the vote, (n, factors)
    def read_members(self, images: Tensor) -> Tensor: ...  # (members, n, factors); NaN where a member cannot tell


@runtime_checkable
class ReadingEditor(Protocol):
    """An editor that also predicts the factors' values from latents, in their units: a null edit sets these values."""

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor: ...
    def read(self, latents: Tensor) -> Tensor: ...


Identity: TypeAlias = dict[str, str | int | float | bool]
Embed: TypeAlias = Callable[[Tensor], Tensor]  # uint8 images to features, (batch, width)


@runtime_checkable
class FeatureEncoder(Protocol):
    """A frozen encoder of images; `identity` names everything that its features depend on. See docs/architecture.md."""

    @property
    def identity(self) -> Identity: ...
    def embed(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]: ...


@runtime_checkable
class ImageEncoder(Protocol):
    """A frozen encoder with a decoder: its features are latents that can be edited, see docs/architecture.md."""

    size: int

    @property
    def latent_shape(self) -> tuple[int, ...]: ...
    @property
    def identity(self) -> Identity: ...
    def encode(self, images: UInt8[Tensor, "batch 3 size size"]) -> tuple[Tensor, Tensor]: ...
    def decode(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 size size"]: ...


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen encoder of texts; `identity` names everything that its features depend on. See docs/architecture.md."""

    @property
    def identity(self) -> Identity: ...
    def embed_text(self, texts: list[str]) -> Float[Tensor, "texts features"]: ...


@runtime_checkable
class FactorReader(Protocol):
    """A judge or a committee of judges that also holds the medians of the training labels."""

    median: Tensor

    def read(self, images: Tensor) -> Tensor: ...
