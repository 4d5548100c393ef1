"""A finished run, read back.

from evaluation.run import load
run = load("runs/faces/iin")  # the newest run below
run.edit("face.png", glasses=1).save("with_glasses.png")  # the photograph at its own resolution
run.edit("group.jpg", glasses=1, face=2)  # the second largest face
run.set_component("face.png", 2, -3)  # in standard deviations
run.swap("face.png", "other.png", "sex")
run.draw_strip(["face.png"], factor="glasses", values=[0, 1], out="strip.png")
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Shaped, UInt8
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from datamodules.celeba import WIDTH
from datamodules.factors import FactorTable, near_names
from datamodules.features import FeatureData, FeatureEncoder, as_read, extract
from datamodules.texts import TextData, TextEncoder, extract_texts
from evaluation.composition import COMPOSITIONS, compose, default_composition
from evaluation.files import ImageSource, read_image, read_json, to_pillow
from evaluation.manifest import label
from evaluation.photographs import LUMA, Framed, centre_of, facing, kept_place, read_photograph
from evaluation.record import made
from models import UserError, check_choice, dlib_faces

__all__ = ["ALIGNMENTS", "LoadedRun", "Subjects", "find_run", "load"]

ALIGNMENTS = ("auto", "none")
BATCH = 256

# Tensors are uint8, (n, 3, size, size) or one image; others are refused in a line that says so.
Images: TypeAlias = ImageSource | Sequence[ImageSource] | Shaped[Tensor, "..."]
Edited: TypeAlias = Image.Image | list[Image.Image]  # one for one, a list for several


class Subjects(NamedTuple):
    """What is edited, as the encoder reads it; `framed` are the photographs that it is the squares of, if it is."""

    pixels: UInt8[Tensor, "n 3 size size"]
    framed: list[Framed] | None = None


def find_run(path: str | Path) -> Path:
    """The run folder at a path, or the newest run below it, a finished one if there is one.

    Raises:
        UserError: no such folder, or no run in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        names = [place.name for place in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = near_names(folder.name, names)
        raise UserError(f"Expected a run folder at {folder}, got no such folder: give the one training printed.{near}")
    if (folder / "config.yaml").is_file():
        return folder
    found = [place.parent for place in folder.rglob("config.yaml") if not place.parent.name.startswith(".")]
    if not found:
        raise UserError(
            f"Expected a run folder at {folder}, got one without config.yaml: give the one training printed."
        )
    return max([run for run in found if finished(run)] or found, key=lambda run: (run / "config.yaml").stat().st_mtime)


def finished(folder: Path) -> bool:
    """Whether there is something to read back: a checkpoint, or clusters of a method that has none (k-means)."""
    return any((folder / "checkpoints").glob("*.ckpt")) or (folder / "assignments.parquet").is_file()


def load(path: str | Path, device: str | None = None) -> "LoadedRun":
    """A finished run, or the newest one below the path.

    It is opened where it was computed, on a GPU or on the CPU, as the features of the one are not those of the other;
    on the CPU where there is no GPU.

    Raises:
        UserError: as `find_run`; nothing that is finished.
    """
    folder = find_run(path)
    if not finished(folder):
        expected = folder / "checkpoints" / "last.ckpt"
        raise UserError(f"Expected the checkpoint {expected}, got none: train the run to its end or choose another.")
    manifest = read_json(folder / "manifest.json")
    recorded = "cuda" if manifest.get("device") != "cpu" and torch.cuda.is_available() else "cpu"
    return LoadedRun(folder, OmegaConf.load(folder / "config.yaml"), manifest, torch.device(device or recorded))


def load_module(kind: Any, file: Path) -> Any:
    """A module from its checkpoint, frozen; `kind` is a LightningModule's class.

    Raises:
        UserError: no such file; a file that is no such checkpoint.
    """
    if not file.is_file():
        raise UserError(f"Expected the checkpoint {file}, got no such file: this run has no {kind.__name__}.")
    try:
        module = kind.load_from_checkpoint(file, map_location="cpu")
    except Exception as error:  # torch, pickle, zipfile and Lightning each raise their own kind
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"Expected a checkpoint of {kind.__name__}, got {file} ({reason}): train the run again."
        ) from error
    return module.eval().requires_grad_(False)


@dataclass
class LoadedRun:
    """A finished run; its data, encoder and network are loaded when first asked for."""

    path: Path
    config: Any  # OmegaConf's DictConfig, a class that the shape checks warn of
    manifest: dict[str, Any]
    device: torch.device

    @cached_property
    def data(self) -> Any:
        """`ImageData`, `TextData`, or `FeatureData` of a user's own vectors.

        Raises:
            UserError: data that cannot be read, or other data than the run was made of.
        """
        data = made(self.config.data)
        recorded = self.manifest.get("data", {}).get("fingerprint")
        if recorded and recorded != data.fingerprint:
            raise UserError(
                f"Expected the data that {self.path} was made of (fingerprint {recorded[:12]}), got other data in its "
                f"place ({data.fingerprint[:12]}): put the files back, or train a new run."
            )
        return data

    @cached_property
    def encoder(self) -> Any:
        """The frozen encoder, see docs/architecture.md.

        Raises:
            UserError: no checkpoint; an encoder that makes other latents than the run's.
        """
        settings = self.config.encoder
        if settings.get("name") == "vae":
            from models.vae import VAE  # Lightning, which takes seconds to load

            encoder = load_module(VAE, self.path / "checkpoints" / "vae.ckpt")
        else:
            encoder = made({key: value for key, value in settings.items() if key != "name"}).eval()
        recorded = (self.manifest.get("encoder") or {}).get("sha256")
        if recorded and recorded != encoder.identity["sha256"]:
            raise UserError(
                f"Expected the encoder that {self.path} was trained on (weights {recorded[:12]}), got another one "
                f"({str(encoder.identity['sha256'])[:12]}): put its checkpoint back or train the run again."
            )
        return encoder.to(self.device)

    @cached_property
    def iin(self) -> Any:
        """The trained network with the editor interface.

        Raises:
            UserError: no checkpoint of one, or one of other latents than the encoder's.
        """
        from models.iin import IIN

        file = self.path / "checkpoints" / "last.ckpt"
        iin = load_module(IIN, file)
        expected = math.prod(self.encoder.latent_shape)
        if iin.flow.features != expected:
            raise UserError(
                f"Expected a checkpoint for {expected} latents, the encoder's, got one for {iin.flow.features} at "
                f"{file}: put the run's own checkpoint back or train it again."
            )
        return iin.to(self.device)

    @cached_property
    def vectors(self) -> FeatureData:
        """The features of the run's data, from the cache or computed anew."""
        if isinstance(self.data, FeatureData):
            return self.data
        found = extract_texts if isinstance(self.data, TextData) else extract
        return found(self.data, self.encoder, self.config.cache_dir, self.device)

    @cached_property
    def clusterer(self) -> Any:
        """The trained clustering model.

        Raises:
            UserError: no checkpoint of one, or one of other features.
        """
        from evaluation.clusterers import KINDS

        file = self.path / "checkpoints" / "last.ckpt"
        if self.config.model.name not in KINDS:
            raise UserError(
                f"Expected a run of {' or '.join(KINDS)}, got one of {self.config.model.name} at {self.path}."
            )
        return load_module(KINDS[self.config.model.name], file).to(self.device)

    @torch.inference_mode()
    def features(self, images: Sequence[ImageSource]) -> Float[Tensor, "n features"]:
        """Features of pictures or image files, cropped and resized as the run's data was.

        Raises:
            UserError: no image; one that cannot be read; a run of vectors, whose encoder is not known.
        """
        if "features" in self.manifest.get("data", {}):
            raise UserError(
                f"Expected a run of images, got one of vectors at {self.path}, and nothing here makes vectors of "
                "images: train a run on the images themselves, data=folder encoder=..., to ask it about new ones."
            )
        if not len(images):
            raise UserError("Expected at least one image, got none.")
        pixels, encoder = self.pixels(images), self.encoder
        if not isinstance(encoder, FeatureEncoder):
            return self.encode(as_read(pixels, encoder.size))
        return torch.cat([encoder.embed(part.to(self.device)) for part in pixels.split(BATCH)])

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n features"]:
        """Features of new texts.

        Raises:
            UserError: no text; an encoder that reads none.
        """
        if self.manifest.get("encoder") is None or not isinstance(self.encoder, TextEncoder):
            raise UserError(f"Expected a run whose encoder reads texts, got {self.path}: train one with data=texts.")
        if not len(texts):
            raise UserError("Expected at least one text, got none.")
        return self.encoder.embed_text(list(texts)).to(self.device)

    def factor(self, name: str) -> int:
        """The number of a factor.

        Raises:
            UserError: no factor has that name; near names are suggested.
        """
        factors = tuple(self.iin.factors)
        if not factors:
            raise UserError(
                f"Expected a run that was trained with factors, got {self.path}, which has none: use component=."
            )
        return FactorTable(factors, torch.empty(0, len(factors))).index(name)

    def value(self, factor: int, value: str | int | float) -> float:
        """A wanted value in the factor's unit, see `label`."""
        wanted = self.iin.factors[factor]
        described = {known["name"]: known for known in self.manifest.get("data", {}).get("factors", [])}
        return label(wanted, value, described.get(wanted.name, {}))

    def pixels(self, images: Sequence[ImageSource]) -> UInt8[Tensor, "n channels size size"]:
        """Files or pictures, cropped and resized as the run's data was, grey where that is."""
        size = self.manifest.get("data", {}).get("size") or self.encoder.size
        return self.in_its_colours(torch.stack([read_image(image, size, self.crop) for image in images]))

    @property
    def crop(self) -> float:
        """The share of the shorter side that the run's data keeps of a picture."""
        crop = float(self.config.data.get("crop", 1.0))
        return crop / WIDTH if crop > 1 else crop  # CelebA's is in pixels

    def in_its_colours(self, pixels: UInt8[Tensor, "n 3 size size"]) -> UInt8[Tensor, "n channels size size"]:
        """Grey where the run's data is."""
        if self.manifest.get("data", {}).get("channels", 3) == 3:
            return pixels
        # Rounded, which torchvision's is not: what was grey before stays exactly as it was.
        grey = (pixels * pixels.new_tensor(LUMA, dtype=torch.float64)[:, None, None]).sum(1, keepdim=True)
        return grey.round().to(torch.uint8)

    @torch.inference_mode()
    def encode(self, pixels: UInt8[Tensor, "n 3 size size"]) -> Float[Tensor, "n d"]:
        return torch.cat([self.encoder.encode(part.to(self.device))[0] for part in pixels.split(BATCH)])

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 size size"]:
        return torch.cat([self.encoder.decode(part).cpu() for part in latents.split(BATCH)])

    def donor(self, donor: ImageSource, align: str = "auto") -> UInt8[Tensor, "1 3 size size"]:
        """A picture, the image at a path, or the one of that id in the run's data, which is never aligned.

        Raises:
            UserError: neither a file nor an id; an image that cannot be read, or shows no face.
        """
        if not isinstance(donor, str) or Path(donor).expanduser().is_file():
            return self.subjects([donor], align).pixels
        if donor not in self.data.ids:
            near = near_names(donor, self.data.ids)
            raise UserError(f"Expected donor= to be an image file or an id of the run's data, got {donor!r}.{near}")
        return as_read(self.data.images[[self.data.ids.index(donor)]], self.encoder.size)

    @cached_property
    def place(self) -> tuple[Float[Tensor, "5 2"] | None, str]:
        """Where the faces of the run's images lie, as shares of their side; or None, and why it is not known."""
        if not dlib_faces.are_installed():
            return None, "the extra that finds faces is not installed (pip install -c constraints.txt -e '.[faces]')"
        try:
            place = kept_place(self.path, lambda: self.data)
        except UserError as error:
            return None, f"where faces lie in this run's images cannot be seen ({error})"
        return place, "" if place is not None else "most of this run's images show no face to align it to"

    def framed(self, images: Sequence[ImageSource], align: str = "auto", face: int = 1) -> list[Framed]:
        """Photographs of the user's own and the square of each that the run sees.

        With `align="auto"` it is the one that puts the face where the faces of the run's images are, the largest or,
        by size, the one of number `face`; where that is not possible, which is said, and with `"none"`, it is the
        crop in the middle that the run's data has.

        Raises:
            UserError: an image that cannot be read; no face, or no face of that number; another word for `align`.
        """
        check_choice("align", align, ALIGNMENTS)
        place, why = self.place if align == "auto" else (None, "align=none")
        if face < 1 or (face > 1 and place is None):
            wanted = "1 (the largest) or above" if face < 1 else f"1, as no faces are looked for: {why}"
            raise UserError(f"Expected face={wanted}, got {face}.")
        pictures = [read_photograph(image) for image in images]
        if place is not None:
            names = ["the picture" if isinstance(image, Image.Image) else str(image) for image in images]
            return [facing(picture, name, place, face) for picture, name in zip(pictures, names, strict=True)]
        if align == "auto":
            print(f"The middle of each photograph is edited, wherever its face is: {why}.")
        return [centre_of(picture, self.crop) for picture in pictures]

    def subjects(self, images: Sequence[ImageSource], align: str = "auto", face: int = 1) -> Subjects:
        """Photographs of the user's own, as the encoder reads them; see `framed`."""
        framed = self.framed(images, align, face)
        size = self.manifest.get("data", {}).get("size") or self.encoder.size
        seen = self.in_its_colours(torch.stack([one.seen(size) for one in framed]))
        return Subjects(as_read(seen, self.encoder.size), framed)

    @property
    def composition(self) -> str:
        """How a change is put into a picture where nothing else is asked for."""
        return default_composition(self.encoder.latent_shape)

    def composed(
        self,
        subjects: Subjects,
        reconstruction: Float[Tensor, "n 3 size size"],
        edited: Float[Tensor, "n 3 size size"],
        how: str | None = None,
    ) -> list[Image.Image]:
        """What a user gets: each photograph, whole and at its own resolution, with the change composed into it.

        Of images of the run's own size it is that image; with `how="none"` the decoded edit itself.
        """
        how = how or self.composition
        if how == "none":
            return to_pillow(edited)
        if subjects.framed is None:
            return to_pillow(compose(subjects.pixels.float() / 255, reconstruction, edited, how))
        parts = zip(subjects.framed, reconstruction, edited, strict=True)
        return [framed.composed(before, after, how).picture for framed, before, after in parts]

    @torch.inference_mode()
    def edit_latents(
        self, latents: Float[Tensor, "n d"], values: Mapping[str, str | int | float], strength: float = 1.0
    ) -> Float[Tensor, "n d"]:
        """Factors set one after the other."""
        for name, value in values.items():
            factor = self.factor(name)
            wanted = torch.full((len(latents),), self.value(factor, value), device=latents.device)
            latents = self.iin.edit(latents, factor, wanted, strength)
        return latents

    @torch.inference_mode()
    def component_latents(
        self, latents: Float[Tensor, "n d"], component: int, value: str | int | float, strength: float = 1.0
    ) -> Float[Tensor, "n d"]:
        """One component set to a value, in standard deviations.

        Raises:
            UserError: no such component, or a value that is no finite number.
        """
        number = self.component_value(component, value)
        return self.partly(latents, self.iin.set_component(latents, component, number), strength)

    def component_value(self, component: int, value: str | int | float) -> float:
        """A wanted value of a component as a number.

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
        """A factor's block taken from a donor each, or from one for all."""
        swapped = self.iin.swap(latents, donors.expand_as(latents), self.factor(factor))
        return self.partly(latents, swapped, strength)

    def partly(
        self, latents: Float[Tensor, "n d"], edited: Float[Tensor, "n d"], strength: float
    ) -> Float[Tensor, "n d"]:
        """Between the latents and the edited ones, along a straight line of codes."""
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
        """The images with what a change of their latents changes; of strength 0, or without any, bit for bit."""
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

    # `self` and `images` are positional, so that factors of these names can be keywords, too.
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
        """Images with factors set to values, `glasses=1` or `{"glasses": "with"}`; one for one, a list for several.

        A photograph, a path or a picture, comes back whole, upright and at its own resolution, changed only where the
        edit changes it; a tensor of the run's size as a picture of that size. `strength` (default 1) is how far to go:
        0 gives the picture back bit for bit. `compose` is how the change is put into it
        (`evaluation.composition.COMPOSITIONS`; "none": the decoded edit at the run's size), `align` and `face` which
        part of a photograph is edited (`framed`). Where a factor has the name of one of these, the factors have to come
        as a dictionary.

        Raises:
            UserError: an image that cannot be read or shows no face, an unknown factor, a value it does not have; an
                option that could be a factor, too.
        """
        options = {"strength": strength, "compose": compose, "align": align, "face": face}
        names = {factor.name for factor in self.iin.factors}
        for name, value in options.items():
            if value is not None and not values and name in names:
                raise UserError(
                    f"Expected the factors as a dictionary, as one of them is called {name}, got {name}={value}: write "
                    f"edit(images, {{'{name}': {value!r}}}), and {name}= beside it for the option."
                )
        wanted = {name: value for part in (*values, factors) for name, value in part.items()}
        far = 1.0 if strength is None else strength
        for name, value in wanted.items():  # before any picture is read
            self.value(self.factor(name), value)
        change = lambda latents: self.edit_latents(latents, wanted, far)  # noqa: E731
        return self.pictures(images, change, far, compose, align or "auto", 1 if face is None else face)

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
        """Images with one component set to a value, in standard deviations; options and result as of `edit`.

        Raises:
            UserError: an image that cannot be read, no such component, a value that is no number.
        """
        change = lambda latents: self.component_latents(latents, component, value, strength)  # noqa: E731
        return self.pictures(images, change, strength, compose, align, face)

    def swap(
        self,
        images: Images,
        donor: ImageSource,
        factor: str,
        strength: float = 1.0,
        compose: str | None = None,
        align: str = "auto",
        face: int = 1,
    ) -> Edited:
        """Images with a factor's block taken from the donor, a picture, a path or an id of the run's data.

        Options and result as of `edit`; of a donor's photograph the largest face is taken.

        Raises:
            UserError: an image that cannot be read, no such donor, an unknown factor.
        """
        donors = self.encode(self.donor(donor, align))
        change = lambda latents: self.swap_latents(latents, donors, factor, strength)  # noqa: E731
        return self.pictures(images, change, strength, compose, align, face)

    def draw_strip(self, images: str | Path | Sequence[str | Path] | None = None, /, **options: Any) -> Path:
        """Draw a strip of edits and return its PNG: `python -m evaluation.edit` with the same options.

        `images` are files; without any the options n, split and seed choose from the run's data.

        Raises:
            UserError: as the command.
        """
        from evaluation.edit import Options, edit_run  # which imports this module

        files = [images] if isinstance(images, str | Path) else images
        names = None if files is None else [str(file) for file in files]
        return Path(edit_run(self, Options(str(self.path), images=names, **options))["figure"])


def check_strength(strength: float) -> None:
    """Refuse a strength that is no number."""
    if not math.isfinite(strength):
        raise UserError(f"Expected strength= as a finite number, got {strength}: 1 is the full edit, 0 none of it.")
