"""What the evaluation asks of editors and judges; see docs/architecture.md. Of encoders: `datamodules.features`."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

__all__ = ["Editor", "Embed", "ImageJudge", "JudgeCommittee", "ReadingEditor"]

# Images in [0, 1] to face embeddings.
Embed = Callable[[Float[Tensor, "batch 3 size size"]], Float[Tensor, "batch embedding"]]


@runtime_checkable
class Editor(Protocol):
    """Changes one factor of latents; see docs/architecture.md."""

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor: ...


@runtime_checkable
class ImageJudge(Protocol):
    """Reads each factor's value off images; `evaluation.judge.Judge`, or one that never errs in tests."""

    def read(self, images: Tensor) -> Tensor: ...


@runtime_checkable
class JudgeCommittee(Protocol):
    """Several unlike judges. One that also has `vote(members)`, what `read` makes of its members, reads only once."""

    @property
    def names(self) -> Sequence[str]: ...
    def read(self, images: Tensor) -> Tensor: ...  # the vote, (n, factors)
    def read_members(self, images: Tensor) -> Tensor: ...  # (members, n, factors); NaN where a member cannot tell


@runtime_checkable
class ReadingEditor(Protocol):
    """An editor that says what it reads from latents, in each factor's unit: what a null edit sets."""

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor: ...
    def read(self, latents: Tensor) -> Tensor: ...
