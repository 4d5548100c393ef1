"""What the commands on embeddings read: a finished run, or train.py's data= and encoder= settings.

    python -m evaluation.explore run=runs/texts/dec query=cat
    python -m evaluation.explore data=texts data.path=words.txt encoder=clip query=cat
    python -m evaluation.explore data=vectors data.path=features.npy data.names=names.csv query=cat

From Python: `source("data=texts", "data.path=words.txt").vectors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from jaxtyping import Float
from torch import Tensor

from datamodules.factors import ImageData
from datamodules.features import FeatureData, FeatureEncoder, extract
from datamodules.texts import TextData, TextEncoder, extract_texts
from evaluation.command import options
from evaluation.fitting import device_of
from evaluation.record import made
from evaluation.run import LoadedRun, load
from models import UserError

__all__ = ["Source", "asked_source", "source"]

CONFIGS = Path(__file__).parents[1] / "configs"
SETTINGS = ("data", "encoder", "cache_dir", "image_size", "trainer")  # of train.py; the rest are the command's own

T = TypeVar("T")


@dataclass
class Source:
    """Embeddings with what is known of their rows, and what embeds new texts and images like them."""

    config: Any  # OmegaConf's DictConfig
    device: torch.device
    run: LoadedRun | None = None
    folder: Path = field(default=Path("."))  # where a command writes what it draws

    @cached_property
    def data(self) -> Any:
        return self.run.data if self.run else made(self.config.data)

    @cached_property
    def encoder(self) -> Any:
        """The frozen encoder.

        Raises:
            UserError: vectors of unknown origin, with no encoder named.
        """
        if self.run:
            return self.run.encoder
        return made({key: value for key, value in self.config.encoder.items() if key != "name"}).to(self.device)

    @cached_property
    def vectors(self) -> FeatureData:
        """The embeddings of all rows.

        Raises:
            UserError: an encoder that does not read this data; one that is trained first.
        """
        if self.run:
            return self.run.vectors
        data = self.data
        if isinstance(data, FeatureData):
            return data
        if self.config.encoder.get("name") == "vae":
            raise UserError("Expected run=RUN or a frozen encoder, got encoder=vae, which is trained first.")
        encoder, wanted = self.encoder, TextEncoder if isinstance(data, TextData) else FeatureEncoder
        if not isinstance(encoder, wanted):
            kind = "texts" if isinstance(data, TextData) else "images"
            raise UserError(f"Expected an encoder of {kind}, got {encoder.identity['name']}: set encoder=clip.")
        if isinstance(data, TextData):
            return extract_texts(data, encoder, self.config.cache_dir, self.device)
        assert isinstance(data, ImageData)
        return extract(data, encoder, self.config.cache_dir, self.device)

    @property
    def names(self) -> list[str]:
        """What a row is called: its text, or its id."""
        return self.vectors.texts or self.vectors.ids

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "n features"]:
        """New texts in the space of the rows.

        Raises:
            UserError: the encoder reads no texts, or gives other features than the rows have.
        """
        if isinstance(self.data, FeatureData) and self.config.encoder.get("name") == "vae":
            raise UserError(
                f"Expected one of the {len(self.names)} names, got {texts[0]!r}, and vectors come without an encoder: "
                "set encoder=clip or the like to the one that made them."
            )
        if not isinstance(self.encoder, TextEncoder):
            raise UserError(f"Expected an encoder of texts for {texts[0]!r}, got {self.encoder.identity['name']}.")
        found = self.encoder.embed_text(list(texts)).cpu()
        if found.shape[1] != self.vectors.values.shape[1]:
            raise UserError(
                f"Expected embeddings of {self.vectors.values.shape[1]} numbers, as the rows have, got "
                f"{found.shape[1]} of encoder={self.encoder.identity['name']}: name the encoder that made the rows."
            )
        return found


def source(*settings: str) -> Source:
    """Of a run (`run=RUN`) or of train.py's settings.

    Raises:
        UserError: settings that train.py does not know; no data.
    """
    chosen = [setting for setting in settings if setting.startswith("run=")]
    if chosen:
        run = load(chosen[0].removeprefix("run="))
        return Source(run.config, run.device, run, run.path)
    if not any(setting.startswith(("data=", "data.")) for setting in settings):
        raise UserError("Expected run=RUN, or data= and encoder= as train.py takes them, got neither.")
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", list(settings))
    except HydraException as error:
        raise UserError(f"Expected train.py's settings, got: {' '.join(str(error).split())}") from error
    return Source(config, device_of(config))


def asked_source(schema: type[T], arguments: Sequence[str]) -> tuple[T, Source]:
    """A command's own options, and the source that the other arguments name; files go to `out=` where it has that."""
    own = [a for a in arguments if a.split("=")[0].split(".")[0] not in (*SETTINGS, "run")]
    asked = options(schema, own)
    found = source(*(a for a in arguments if a not in own))
    if out := getattr(asked, "out", None):
        found.folder = Path(out).expanduser()
    return asked, found
