"""Edit images with an encoder and an invertible network, without a run folder.

```python
from evaluation.editing.editor import ImageEditor
editor = ImageEditor(encoder, iin, iin.factors)
editor.edit("face.png", glasses=1).save("with_glasses.png")  # the photograph at its own resolution
editor.set_component("face.png", 2, -3)  # in standard deviations
editor.swap("face.png", "other.png", "sex")
```
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from datamodules.factors import FactorTable
from datamodules.features import ImageEncoder, as_read
from evaluation.editing.photographs import (
    Framed,
    Preprocessing,
    Subjects,
    centre_of,
    facing,
    read_photograph,
)  # fmt: skip
from models import UserError, check_choice
from models.composition import COMPOSITIONS, default_composition
from models.labels import Factor, factor_value
from training.files import ImageSource, name_of

__all__ = ["ALIGNMENTS", "ImageEditor", "check_strength", "decode_latents", "encode_images"]

ALIGNMENTS = ("auto", "none")
BATCH = 256

# Tensors are uint8, (n, 3, size, size) or one image; `pictures` refuses others with an error of one line.
Images: TypeAlias = ImageSource | Sequence[ImageSource] | Shaped[Tensor, "..."]
Edited: TypeAlias = Image.Image | list[Image.Image]  # one picture for one image, a list for several
Landmarks: TypeAlias = Float[Tensor, "5 2"]


@torch.inference_mode()
def encode_images(
    encoder: ImageEncoder, pixels: UInt8[Tensor, "n 3 size size"], device: torch.device
) -> Float[Tensor, "n d"]:
    """Encode images of the encoder's size into posterior means, in batches on the device."""
    return torch.cat([encoder.encode(part.to(device))[0] for part in pixels.split(BATCH)])


@torch.inference_mode()
def decode_latents(encoder: ImageEncoder, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 size size"]:
    """Decode latents into images in [0, 1], in batches, on the CPU."""
    return torch.cat([encoder.decode(part).cpu() for part in latents.split(BATCH)])


class ImageEditor:
    """An editor of images that consists of an encoder and an invertible network of its latents.

    Arguments:
        encoder: the frozen image encoder, see `models.interfaces.ImageEncoder`.
        iin: the network with `edit`, `swap`, `set_component`, `encode` and `inverse`, such as `models.iin.IIN`.
        factors: the factors of its blocks of components.
        preprocessing: how images are read for the encoder; by default as squares of its size, in colour.
        ranges: per factor its `low`, `high`, `lowest` and `highest` value, which continuous factors need.
        landmarks: a function that returns five landmarks of a typical face in the encoder's images, as shares of their
            side, or None, and the reason why they are not known.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        iin: Any,
        factors: Sequence[Factor],
        preprocessing: Preprocessing | None = None,
        ranges: Mapping[str, Mapping[str, Any]] | None = None,
        landmarks: Callable[[], tuple[Landmarks | None, str]] | None = None,
    ) -> None:
        self.encoder, self.iin, self.factors = encoder, iin, tuple(factors)
        self.preprocessing = preprocessing or Preprocessing(encoder.size)
        self.ranges, self.landmarks = ranges or {}, landmarks or (lambda: (None, "no landmarks were given"))
        self.device = next(iin.parameters()).device

    def factor(self, name: str) -> int:
        """Return the number of a factor.

        Raises:
            UserError: no factor has that name; near names are suggested.
        """
        if not self.factors:
            raise UserError(
                f"Expected a network that was trained with factors, got one without {name}: use component=."
            )
        return FactorTable(self.factors, torch.empty(0, len(self.factors))).index(name)

    def value(self, factor: int, value: str | int | float) -> float:
        """Convert a target value to the unit of the factor, see `models.labels.factor_value`."""
        edited = self.factors[factor]
        return factor_value(edited, value, self.ranges.get(edited.name, {}))

    def encode(self, pixels: UInt8[Tensor, "n 3 size size"]) -> Float[Tensor, "n d"]:
        """Encode images of the encoder's size into latents."""
        return encode_images(self.encoder, pixels, self.device)

    def decode(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 size size"]:
        """Decode latents into images in [0, 1], on the CPU."""
        return decode_latents(self.encoder, latents)

    def framed(self, images: Sequence[ImageSource], align: str = "auto", face: int = 1) -> list[Framed]:
        """Read the user's photographs, and choose the square of each that the encoder sees.

        With `align="auto"` the square puts the face where the faces of the run's images are: the largest face, or the
        one of number `face` by size. Where that is not possible, which is printed, and with `"none"`, the square is the
        crop in the middle as in the run's data.

        Raises:
            UserError: an image that cannot be read; no face, or no face of that number; another word for `align`.
        """
        check_choice("align", align, ALIGNMENTS)
        place, why = self.landmarks() if align == "auto" else (None, "align=none")
        if face < 1 or (face > 1 and place is None):
            expected = "1 (the largest) or above" if face < 1 else f"1, as no faces are detected: {why}"
            raise UserError(f"Expected face={expected}, got {face}.")
        pictures = [read_photograph(image) for image in images]
        if place is not None:
            names = [name_of(image) for image in images]
            return [facing(picture, name, place, face) for picture, name in zip(pictures, names, strict=True)]
        if align == "auto":
            print(f"The middle of each photograph is edited, wherever its face is: {why}.")
        return [centre_of(picture, self.preprocessing.crop) for picture in pictures]

    def subjects(self, images: Sequence[ImageSource], align: str = "auto", face: int = 1) -> Subjects:
        """Read the user's photographs as the encoder sees them; see `framed`."""
        framed = self.framed(images, align, face)
        seen = self.preprocessing.recoloured(torch.stack([one.seen(self.preprocessing.size) for one in framed]))
        return Subjects(as_read(seen, self.encoder.size), framed)

    @property
    def composition(self) -> str:
        """The default composition of these latents."""
        return default_composition(self.encoder.latent_shape)

    def composed(
        self,
        subjects: Subjects,
        reconstruction: Float[Tensor, "n 3 size size"],
        edited: Float[Tensor, "n 3 size size"],
        how: str | None = None,
    ) -> list[Image.Image]:
        """Compose edits into their photographs, see `Subjects.composed`."""
        return subjects.composed(reconstruction, edited, how or self.composition)

    @torch.inference_mode()
    def edit_latents(
        self, latents: Float[Tensor, "n d"], values: Mapping[str, str | int | float], strength: float = 1.0
    ) -> Float[Tensor, "n d"]:
        """Set factors of latents to values, one after the other."""
        for name, value in values.items():
            factor = self.factor(name)
            target = torch.full((len(latents),), self.value(factor, value), device=latents.device)
            latents = self.iin.edit(latents, factor, target, strength)
        return latents

    @torch.inference_mode()
    def component_latents(
        self, latents: Float[Tensor, "n d"], component: int, value: str | int | float, strength: float = 1.0
    ) -> Float[Tensor, "n d"]:
        """Set one component of latents to a value, in standard deviations.

        Raises:
            UserError: no such component, or a value that is no finite number.
        """
        number = self.component_value(component, value)
        return self.partly(latents, self.iin.set_component(latents, component, number), strength)

    def component_value(self, component: int, value: str | int | float) -> float:
        """Convert the target value of a component to a number.

        Raises:
            UserError: no such component, or a value that is no finite number.
        """
        count = self.iin.quantiles.shape[1]
        if not 0 <= component < count:
            raise UserError(f"Expected component= between 0 and {count - 1}, the run's components, got {component}.")
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"Expected a component's value as a number of standard deviations, got {value!r}: try one from -3 to 3."
            )
        return number

    @torch.inference_mode()
    def swap_latents(
        self,
        latents: Float[Tensor, "n d"],
        donors: Float[Tensor, "donors d"],
        factor: str,
        strength: float = 1.0,
    ) -> Float[Tensor, "n d"]:
        """Swap the block of a factor with that of a donor each, or of one donor for all."""
        swapped = self.iin.swap(latents, donors.expand_as(latents), self.factor(factor))
        return self.partly(latents, swapped, strength)

    def partly(
        self, latents: Float[Tensor, "n d"], edited: Float[Tensor, "n d"], strength: float
    ) -> Float[Tensor, "n d"]:
        """Interpolate linearly between the codes of latents and of their edits, and map back to latents."""
        if strength == 1:
            return edited
        return self.iin.inverse(torch.lerp(self.iin.encode(latents), self.iin.encode(edited), strength))

    def pictures(
        self,
        images: Images,
        change: Callable[[Tensor], Tensor],
        strength: float,
        how: str | None,
        align: str,
        face: int,
    ) -> Edited:
        """Compose a change of the latents into images; at strength 0, or without a change, they stay bit for bit."""
        how = how or self.composition
        check_choice("compose", how, COMPOSITIONS)
        check_strength(strength)
        single = isinstance(images, ImageSource) or (isinstance(images, Tensor) and images.ndim == 3)
        several: Any = images if not single else images[None] if isinstance(images, Tensor) else [images]
        if not len(several):
            raise UserError("Expected at least one image, got none.")
        tensor = isinstance(several, Tensor)
        shape = (3, self.encoder.size, self.encoder.size)
        if tensor and (several.dtype != torch.uint8 or several.shape[1:] != shape):
            raise UserError(
                f"Expected uint8 tensors of shape {shape}, the run's, got {several.dtype} of "
                f"{tuple(several.shape[1:])}: give the picture itself, or its path."
            )
        subjects = Subjects(several) if tensor else self.subjects(several, align, face)
        latents = self.encode(subjects.pixels)
        changed, reconstruction = change(latents), self.decode(latents)
        edited = reconstruction if strength == 0 or changed is latents else self.decode(changed)
        pictures = self.composed(subjects, reconstruction, edited, how)
        return pictures[0] if single else pictures

    def edit(
        self,
        images: Images,
        /,
        *values: Mapping[str, str | int | float],
        strength: float | None = None,
        compose: str | None = None,
        align: str | None = None,
        face: int | None = None,
        **factors: str | int | float,
    ) -> Edited:
        """Set factors of images to values, `glasses=1` or `{"glasses": "with"}`; return a picture or a list of them.

        A photograph, given as a path or a picture, is returned whole, upright and at its own resolution, changed only
        where the edit changes it; a tensor of the run's size is returned as a picture of that size. `strength`
        (default 1) scales the edit: 0 returns the picture bit for bit. `compose` is how the change is composed into it
        (`models.composition.COMPOSITIONS`; "none" returns the decoded edit at the run's size), `align` and `face`
        choose the part of a photograph that is edited (`framed`). Where a factor has the name of one of these options,
        the factors have to be given as a dictionary.

        Raises:
            UserError: an image that cannot be read or shows no face; an unknown factor, or a value that it does not
                have; an option that has the name of a factor.
        """
        options = {"strength": strength, "compose": compose, "align": align, "face": face}
        names = {factor.name for factor in self.factors}
        for name, value in options.items():
            if value is not None and not values and name in names:
                raise UserError(
                    f"Expected the factors as a dictionary, as one of them is called {name}, got {name}={value}: write "
                    f"edit(images, {{'{name}': {value!r}}}), and {name}= beside it for the option."
                )
        targets = {name: value for part in (*values, factors) for name, value in part.items()}
        scale = 1.0 if strength is None else strength
        for name, value in targets.items():  # before any picture is read
            self.value(self.factor(name), value)
        change = lambda latents: self.edit_latents(latents, targets, scale)  # noqa: E731
        return self.pictures(images, change, scale, compose, align or "auto", 1 if face is None else face)

    def set_component(
        self,
        images: Images,
        component: int,
        value: str | int | float,
        strength: float = 1.0,
        compose: str | None = None,
        align: str = "auto",
        face: int = 1,
    ) -> Edited:
        """Set one component of images to a value, in standard deviations; options and result as for `edit`.

        Raises:
            UserError: an image that cannot be read, no such component, a value that is no number.
        """
        change = lambda latents: self.component_latents(latents, component, value, strength)  # noqa: E731
        return self.pictures(images, change, strength, compose, align, face)

    def swap(
        self,
        images: Images,
        donor: ImageSource | UInt8[Tensor, "1 3 size size"],
        factor: str,
        strength: float = 1.0,
        compose: str | None = None,
        align: str = "auto",
        face: int = 1,
    ) -> Edited:
        """Swap the block of a factor with that of the donor: a picture, a path, or a tensor of the encoder's size.

        Options and result are as for `edit`; of a photograph as donor the largest face is used.

        Raises:
            UserError: an image that cannot be read, an unknown factor.
        """
        donors = self.encode(donor if isinstance(donor, Tensor) else self.subjects([donor], align).pixels)
        change = lambda latents: self.swap_latents(latents, donors, factor, strength)  # noqa: E731
        return self.pictures(images, change, strength, compose, align, face)


def check_strength(strength: float) -> None:
    """Check that a strength is a finite number.

    Raises:
        UserError: NaN or infinity.
    """
    if not math.isfinite(strength):
        raise UserError(f"Expected strength= as a finite number, got {strength}: 1 is the full edit, 0 none of it.")
