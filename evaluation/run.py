"""Load a finished run, to edit images with it or to read its data, encoder and networks.

```python
from evaluation.run import load
run = load("runs/faces/iin")  # the newest run below
run.edit("face.png", glasses=1).save("with_glasses.png")  # the photograph at its own resolution
run.edit("group.jpg", glasses=1, face=2)  # the second largest face
run.set_component("face.png", 2, -3)  # in standard deviations
run.swap("face.png", "other.png", "sex")
run.draw_strip(["face.png"], factor="glasses", values=[0, 1], out="strip.png")
```
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import get_class
from jaxtyping import Float, UInt8
from omegaconf import OmegaConf
from torch import Tensor

from datamodules.celeba import crop_share
from datamodules.factors import SPLIT_WORDS, words
from datamodules.features import FeatureData, as_read, extract
from datamodules.texts import TextData, extract_texts
from evaluation.editing.editor import Edited, ImageEditor, Images, decode_latents, encode_images
from evaluation.editing.photographs import Preprocessing, stored_landmarks
from models import UserError, dlib_faces, near_names
from models.interfaces import FeatureEncoder, TextEncoder
from models.text_length import cut_note
from training.build import build, is_trained_here
from training.checkpoints import load_module
from training.files import ImageSource
from training.manifest import described_data, difference
from training.places import check_links, take_cache, take_places
from training.run_files import read_array, read_manifest, read_run_table
from training.run_folder import find_run, finished
from training.stored_settings import stored

__all__ = ["LoadedRun", "described", "load", "spaces_of"]

BATCH = 256


def load(path: str | Path, device: str | None = None, places: Mapping[str, Any] | None = None) -> "LoadedRun":
    """Load a finished run, or the newest one below the path.

    `places` says where its data lie now, where they have moved: `load(run, places={"root": "/new/photographs"})`.

    It is loaded on the kind of device that computed it, as the features of a GPU differ from those of a CPU; on the CPU
    where there is no GPU.

    Raises:
        UserError: no run at the path, see `find_run`; a run that is not finished; a damaged file; settings that name
            other code than configs/; a link that leads out of the folder.
    """
    folder = find_run(path)
    if not finished(folder):
        expected = folder / "checkpoints" / "last.ckpt"
        raise UserError(f"Expected the checkpoint {expected}, got none: train the run to its end or choose another.")
    manifest = read_manifest(folder)
    recorded = "cuda" if manifest.get("device") != "cpu" and torch.cuda.is_available() else "cpu"
    config = stored(folder / "config.yaml")
    OmegaConf.set_struct(config, False)
    take_places(config, places or {})
    take_cache(config)
    check_links(folder)
    return LoadedRun(folder, config, manifest, torch.device(device or recorded))


@dataclass
class LoadedRun:
    """A finished run, whose data, encoder and network are loaded on first use."""

    path: Path
    config: Any  # OmegaConf's DictConfig, a class that the shape checks warn of
    manifest: dict[str, Any]
    device: torch.device

    @cached_property
    def data(self) -> Any:
        """`ImageData`, `TextData`, or `FeatureData` of a user's own vectors.

        Raises:
            UserError: data that cannot be read, or other data or labels than the run was trained on.
        """
        data = build(self.config.data)
        computed = self.config.get("prompts") or ()  # factors that the run has labelled itself
        if part := difference(self.manifest.get("data") or {}, described_data(data), computed):
            raise UserError(
                f"Expected the data that {self.path} was trained on, got other {part}: put the files back, or train a "
                "new run."
            )
        return data

    @cached_property
    def encoder(self) -> Any:
        """The frozen encoder, see docs/architecture.md.

        Raises:
            UserError: no checkpoint; an encoder of other latents than the run's.
        """
        settings = self.config.encoder
        if is_trained_here(self.config):
            encoder = load_module(get_class(self.config.vae._target_), self.path / "checkpoints" / "vae.ckpt")
        else:
            encoder = build({key: value for key, value in settings.items() if key != "name"}).eval()
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
        if "iin" not in self.config:
            raise UserError(f"Expected a run of model=iin, got one of {self.config.model.name} at {self.path}.")
        file = self.path / "checkpoints" / "last.ckpt"
        iin = load_module(get_class(self.config.iin._target_), file)
        expected = math.prod(self.encoder.latent_shape)
        if iin.flow.features != expected:
            raise UserError(
                f"Expected a checkpoint for {expected} latents, the encoder's, got one for {iin.flow.features} at "
                f"{file}: put the run's own checkpoint back or train it again."
            )
        return iin.to(self.device)

    @cached_property
    def vectors(self) -> FeatureData:
        """The features of the run's data, from the cache or computed."""
        if isinstance(self.data, FeatureData):
            return self.data
        compute = extract_texts if isinstance(self.data, TextData) else extract
        return compute(self.data, self.encoder, self.config.cache_dir, self.device)

    @cached_property
    def clusterer(self) -> Any:
        """The trained clustering model.

        Raises:
            UserError: no checkpoint of one, or one of other features.
        """
        from training.clusterers import clusterers

        file, name, known = self.path / "checkpoints" / "last.ckpt", self.config.model.name, clusterers(self.config)
        if name not in known:
            raise UserError(f"Expected a run of a clustering model, such as dec, got one of {name} at {self.path}.")
        return load_module(known[name], file).to(self.device)

    @torch.inference_mode()
    def features(self, images: Sequence[ImageSource]) -> Float[Tensor, "n features"]:
        """Compute the features of pictures or image files, cropped and resized like the run's data.

        Raises:
            UserError: no image; one that cannot be read; a run of vectors, whose encoder is not known.
        """
        if "features" in self.manifest.get("data", {}):
            raise UserError(
                f"Expected a run of images, got one of vectors at {self.path}, whose encoder is not known: train a run "
                "on the images themselves, data=folder encoder=..., to use it on new ones."
            )
        if not len(images):
            raise UserError("Expected at least one image, got none.")
        pixels, encoder = self.preprocessing.read(images), self.encoder
        if isinstance(encoder, FeatureEncoder):
            return torch.cat([encoder.embed(part.to(self.device)) for part in pixels.split(BATCH)])
        return self.encode(as_read(pixels, encoder.size))

    def encode(self, pixels: UInt8[Tensor, "n 3 size size"]) -> Float[Tensor, "n d"]:
        """Encode images of the encoder's size into latents."""
        return encode_images(self.encoder, pixels, self.device)

    def decode(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 size size"]:
        """Decode latents into images in [0, 1], on the CPU."""
        return decode_latents(self.encoder, latents)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n features"]:
        """Compute the features of new texts.

        Raises:
            UserError: no text; an encoder that reads none.
        """
        if self.manifest.get("encoder") is None or not isinstance(self.encoder, TextEncoder):
            raise UserError(f"Expected a run whose encoder reads texts, got {self.path}: train one with data=texts.")
        if not len(texts):
            raise UserError("Expected at least one text, got none.")
        if note := cut_note(self.encoder, texts):
            print(note)
        return self.encoder.embed_text(list(texts)).to(self.device)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the run's data."""
        share, described = crop_share(float(self.config.data.get("crop", 1.0))), self.manifest.get("data", {})
        size, channels = described.get("size") or self.encoder.size, described.get("channels", 3)
        return Preprocessing(size, share, channels)

    @cached_property
    def editor(self) -> ImageEditor:
        """The editor of the run's encoder and network.

        Raises:
            UserError: see `encoder` and `iin`.
        """
        described = {known["name"]: known for known in self.manifest.get("data", {}).get("factors", [])}
        return ImageEditor(
            self.encoder, self.iin, self.iin.factors, self.preprocessing, described, lambda: self.landmarks
        )

    def donor(self, donor: ImageSource, align: str = "auto") -> UInt8[Tensor, "1 3 size size"]:
        """Read the donor of a swap: a picture, an image file, or an id of the run's data, which is never aligned.

        Raises:
            UserError: neither a file nor an id; an image that cannot be read, or shows no face.
        """
        if not isinstance(donor, str) or Path(donor).expanduser().is_file():
            return self.editor.subjects([donor], align).pixels
        if donor not in self.data.ids:
            near = near_names(donor, self.data.ids)
            raise UserError(f"Expected donor= to be an image file or an id of the run's data, got {donor!r}.{near}")
        return as_read(self.data.images[[self.data.ids.index(donor)]], self.encoder.size)

    @cached_property
    def landmarks(self) -> tuple[Float[Tensor, "5 2"] | None, str]:
        """The landmarks of a typical face in the run's images, as shares of their side; or None, and the reason."""
        if not dlib_faces.are_installed():
            return None, "the extra that finds faces is not installed (pip install -c constraints.txt -e '.[faces]')"
        try:
            place = stored_landmarks(self.path, lambda: self.data)
        except UserError as error:
            return None, f"the landmarks of this run's images cannot be found ({error})"
        return place, "" if place is not None else "most of this run's images show no face to align it to"

    def edit(self, images: Images, /, *values: Mapping[str, str | int | float], **options: Any) -> Edited:
        """Set factors of images to values, see `ImageEditor.edit`: `run.edit("face.png", glasses=1)`."""
        return self.editor.edit(images, *values, **options)

    def set_component(self, images: Images, component: int, value: str | int | float, **options: Any) -> Edited:
        """Set one component of images, see `ImageEditor.set_component`."""
        return self.editor.set_component(images, component, value, **options)

    def swap(self, images: Images, donor: ImageSource, factor: str, align: str = "auto", **options: Any) -> Edited:
        """Swap the block of a factor with that of a donor, see `ImageEditor.swap`; it may be an id of the run's data.

        Raises:
            UserError: see `donor`.
        """
        return self.editor.swap(images, self.donor(donor, align), factor, align=align, **options)

    def draw_strip(self, images: str | Path | Sequence[str | Path] | None = None, /, **options: Any) -> Path:
        """Draw a strip of edits and return its PNG: `python -m evaluation.edit` with the same options.

        `images` are files; without any the options n, split and seed choose from the run's data.

        Raises:
            UserError: as the command.
        """
        from evaluation.editing.edit_options import Options
        from evaluation.editing.strips import edit_run

        files = [images] if isinstance(images, str | Path) else images
        names = None if files is None else [str(file) for file in files]
        return Path(edit_run(self, Options(str(self.path), images=names, **options))["figure"])


def spaces_of(run: LoadedRun, chosen: Sequence[str] | None) -> dict[str, Float[Tensor, "n _"]]:
    """Return the features of a run and the codes of its models: the chosen spaces, or all.

    Raises:
        UserError: a space that the run does not have.
    """
    spaces: dict[str, Any] = {"features": lambda: run.vectors.values}
    if (file := run.path / "codes.npy").is_file():
        spaces["autoencoder"] = lambda: torch.from_numpy(read_array(file, len(run.vectors.ids)))
    if run.config.model.name in ("dec", "idec") and (run.path / "checkpoints" / "last.ckpt").is_file():
        spaces[run.config.model.name] = lambda: run.clusterer.autoencoder.embed(run.vectors.values).cpu()
    if run.config.model.name == "iin":
        spaces["iin"] = lambda: run.iin.encode(run.vectors.values.to(run.device)).detach().cpu()
    names = list(spaces) if chosen is None else list(chosen)
    unknown = [name for name in names if name not in spaces]
    if unknown or not names:
        got, near = (repr(unknown[0]), near_names(unknown[0], spaces)) if unknown else ("none", "")
        raise UserError(f"Expected spaces= among {', '.join(spaces)}, as the run has them, got {got}.{near}")
    return {name: spaces[name]() for name in names}


def described(run: LoadedRun) -> pd.DataFrame:
    """Tabulate id, split, labels and clusters of every row of a run."""
    data = run.vectors
    table = pd.DataFrame({"id": data.ids, "split": [SPLIT_WORDS[part] for part in data.split.tolist()]})
    table = table.assign(**words(data.factors))
    if (file := run.path / "assignments.parquet").is_file():
        found = read_run_table(file, [], len(data.ids))
        methods = [str(name) for name in found if f"{name}/certainty" in found]
        table = table.assign(**{f"{name} cluster": found[name].astype(str).to_numpy() for name in methods})
    return table
