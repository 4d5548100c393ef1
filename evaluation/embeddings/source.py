"""Open the embeddings that the commands read: those of a finished run, or of the data= and encoder= of train.py.

    python -m evaluation.explore run=runs/texts/dec query=cat
    python -m evaluation.explore data=texts data.path=words.txt encoder=clip query=cat
    python -m evaluation.explore data=vectors data.path=features.npy data.names=names.csv query=cat

Words, sentences and images are looked up among the rows, or embedded by the encoder of the rows. Where no rows are
needed, encoder= alone is enough. From Python: `source("data=texts", "data.path=words.txt").vectors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from unicodedata import normalize

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from jaxtyping import Float
from torch import Tensor

from datamodules.celeba import crop_share
from datamodules.factors import SPLIT_WORDS, ImageData, words
from datamodules.features import FeatureData, extract
from datamodules.images import IMAGE_SUFFIXES
from datamodules.texts import TextData, extract_texts
from evaluation.command import data_places, option, parse_options
from evaluation.embeddings.search import Index
from evaluation.run import LoadedRun, described, load
from models import UserError, near_names
from models.interfaces import FeatureEncoder, ImageEncoder, TextEncoder
from models.text_length import cut_note
from training.arguments import check_targets, take_as_typed
from training.build import build, device_of, is_trained_here
from training.command_line import quoted
from training.files import read_image
from training.renamed import with_new_names

__all__ = ["Source", "SourceOptions", "options_and_source", "source"]

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGE_SIDE = 224  # side in pixels at which an image file is read where neither the data nor the encoder has one
IMAGES = 64  # files that are read at a time
T = TypeVar("T")


@dataclass
class SourceOptions:
    """Options of the embeddings: a finished run, or settings of train.py, data.KEY=VALUE and the like among them."""

    run: str | None = option(None, "run folder, or a folder whose newest run is taken")
    data: str | None = option(None, "data set, such as texts, vectors, folder or cifar10")
    encoder: str | None = option(None, "frozen encoder, such as clip or sentence (default: that of the run)")
    cache_dir: str | None = option(None, "folder of the cache (default: that of train.py)")
    image_size: int | None = option(None, "side of the images in pixels (default: that of the data)")
    trainer: str | None = option(None, "device settings, such as trainer.accelerator=cpu (default: those of train.py)")


@dataclass
class Source:
    """Embeddings with the labels of their rows, and the encoder that embeds new texts and images in their space."""

    config: Any  # OmegaConf's DictConfig
    device: torch.device
    run: LoadedRun | None = None
    folder: Path = field(default=Path("."))  # where a command writes its files
    has_rows: bool = True  # False: an encoder alone

    @cached_property
    def data(self) -> Any:
        """The data set.

        Raises:
            UserError: an encoder alone.
        """
        if not self.has_rows:
            raise UserError("Expected run=RUN or data= beside encoder=, got none: name the data to search.")
        return self.run.data if self.run else build(self.config.data)

    @cached_property
    def encoder(self) -> Any:
        """The frozen encoder.

        Raises:
            UserError: vectors of unknown origin, with no encoder named.
        """
        if self.run:
            return self.run.encoder
        return build({key: value for key, value in self.config.encoder.items() if key != "name"}).to(self.device)

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
        if is_trained_here(self.config):
            raise UserError("Expected run=RUN or a frozen encoder, got encoder=vae, which is trained first.")
        encoder = self.encoder
        if isinstance(data, TextData) and isinstance(encoder, TextEncoder):
            return extract_texts(data, encoder, self.config.cache_dir, self.device)
        if isinstance(data, ImageData) and isinstance(encoder, FeatureEncoder | ImageEncoder):
            return extract(data, encoder, self.config.cache_dir, self.device)
        kind = "texts" if isinstance(data, TextData) else "images"
        raise UserError(f"Expected an encoder of {kind}, got {encoder.identity['name']}: set encoder=clip.")

    @property
    def can_decode(self) -> bool:
        """Tell whether the rows are latents of images that can be decoded."""
        return self.has_rows and isinstance(self.data, ImageData) and isinstance(self.encoder, ImageEncoder)

    @property
    def names(self) -> list[str]:
        """The names of the rows: their texts, or else their ids."""
        return self.vectors.texts or self.vectors.ids

    @property
    def table(self) -> pd.DataFrame:
        """id, split and labels of every row; of a run also its clusters."""
        if self.run:
            return described(self.run)
        data = self.vectors
        split = [SPLIT_WORDS[part] for part in data.split.tolist()]
        return pd.DataFrame({"id": data.ids, "split": split}).assign(**words(data.factors))

    @cached_property
    def index(self) -> Index:
        """The index that finds nearest neighbours."""
        return Index(self.vectors.values)

    def embed(self, queries: Sequence[str]) -> tuple[Float[Tensor, "n features"], list[list[int]]]:
        """Embed names of rows, image files and texts in the space of the rows; also return the row numbers of each:
        none, one, or several where a text occurs more than once.

        Raises:
            UserError: a query that is no name and that the encoder cannot embed.
        """  # fmt: skip
        rows: dict[str, list[int]] = {query: [] for query in queries}
        for row, name in enumerate(self.names):
            if name in rows:
                rows[name].append(row)
        # Some systems write é as e and an accent: names that are the same text are the same.
        other = {normalize("NFC", query): query for query, found in rows.items() if not found and not query.isascii()}
        for row, name in enumerate(self.names) if other else ():
            if (same := other.get(normalize("NFC", name))) is not None:
                rows[same].append(row)
        new = [query for query, found in rows.items() if not found]
        files = [query for query in new if Path(query).suffix.lower() in IMAGE_SUFFIXES]
        texts = [query for query in new if query not in files]
        vectors = {query: self.vectors.values[found[0]].float() for query, found in rows.items() if found}
        for names, embed in ((files, self.embed_images), (texts, partial(self.embed_text, query=True))):
            if names:
                vectors |= zip(names, embed(names), strict=True)
        return torch.stack([vectors[query] for query in queries]), [rows[query] for query in queries]

    def checked_width(self, vectors: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
        """Return new embeddings, if they are as wide as the rows.

        Raises:
            UserError: another width.
        """
        if self.has_rows and vectors.shape[1] != self.vectors.values.shape[1]:
            raise UserError(
                f"Expected embeddings of {self.vectors.values.shape[1]} numbers, as the rows have, got "
                f"{vectors.shape[1]} of encoder={self.encoder.identity['name']}: name the encoder of the rows."
            )
        return vectors

    def check_encoder(self, query: str) -> None:
        """Check that the encoder of the rows is known.

        Raises:
            UserError: vectors without an encoder; names of a near spelling are suggested.
        """
        if self.has_rows and isinstance(self.data, FeatureData) and is_trained_here(self.config):
            near = near_names(query, self.names)
            raise UserError(
                f"Expected one of the {len(self.names)} names, got {query!r}, and vectors come without an encoder: "
                f"set encoder= to the encoder of these vectors, such as clip.{near}"
            )

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str], query: bool = False) -> Float[Tensor, "n features"]:
        """Embed new texts in the space of the rows; queries behind the encoder's prompt for queries, if it has one.

        Raises:
            UserError: an empty text; an encoder that reads no texts, or of another width than the rows.
        """
        if not all(text.strip() for text in texts):
            raise UserError("Expected texts, got an empty one: leave it out.")
        self.check_encoder(texts[0])
        if not isinstance(self.encoder, TextEncoder):
            near = near_names(texts[0], self.names) if self.has_rows else ""
            raise UserError(
                f"Expected an encoder of texts for {texts[0]!r}, got {self.encoder.identity['name']}.{near}"
            )
        if note := cut_note(self.encoder, texts):
            print(note)
        embed = getattr(self.encoder, "embed_query", self.encoder.embed_text) if query else self.encoder.embed_text
        return self.checked_width(embed(list(texts)).float().cpu())

    @torch.inference_mode()
    def embed_images(self, files: Sequence[str]) -> Float[Tensor, "n features"]:
        """Embed image files in the space of the rows, cropped and resized like the images of the data.

        Raises:
            UserError: a file that cannot be read; an encoder that reads no images, or of another width than the rows.
        """
        self.check_encoder(files[0])
        if self.run:
            return self.run.features(list(files)).cpu()
        encoder = self.encoder
        if not isinstance(encoder, FeatureEncoder | ImageEncoder):
            raise UserError(f"Expected an encoder of images for {files[0]}, got {encoder.identity['name']}.")
        images = self.has_rows and isinstance(self.data, ImageData)
        prepare = getattr(encoder, "prepare", None)
        side = self.data.size if images else getattr(encoder, "size", getattr(prepare, "resize", IMAGE_SIDE))
        share = crop_share(float(self.config.data.get("crop", 1.0))) if images else 1.0
        parts = []
        for start in range(0, len(files), IMAGES):
            pixels = torch.stack([read_image(file, side, share) for file in files[start : start + IMAGES]])
            pixels = pixels.to(self.device)
            features = encoder.embed(pixels) if isinstance(encoder, FeatureEncoder) else encoder.encode(pixels)[0]
            parts.append(features.float().cpu())
        return self.checked_width(torch.cat(parts))


def source(*settings: str) -> Source:
    """Open the source of a run (`run=RUN`) or of train.py's settings.

    Raises:
        UserError: settings that train.py does not know; no data.
    """
    chosen = [setting for setting in settings if setting.startswith("run=")]
    if chosen:
        run = load(chosen[0].removeprefix("run="), places=data_places(settings)[1])
        return Source(run.config, run.device, run, run.path)
    has_rows = any(setting.startswith(("data=", "data.")) for setting in settings)
    if not has_rows and not any(setting.startswith("encoder=") for setting in settings):
        raise UserError("Expected run=RUN, or data= and encoder= as train.py takes them, got neither.")
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", quoted(with_new_names(settings)))
    except HydraException as error:
        raise UserError(f"Expected train.py's settings, got: {' '.join(str(error).split())}") from error
    take_as_typed(config, settings)
    check_targets(config)
    return Source(config, device_of(config), has_rows=has_rows)


def options_and_source(schema: type[T], arguments: Sequence[str], folder: str = "") -> tuple[T, Source]:
    """Parse the options of a command, and open the source that the other arguments choose.

    Files go to `out=` where the options have it, else to the figures of the run, else to `folder`, where one is given.

    Raises:
        UserError: unknown options or settings; a seed that scikit-learn does not take.
    """
    of_source = {each.name for each in fields(SourceOptions)}
    own = [argument for argument in arguments if argument.split("=")[0].split(".")[0] not in of_source]
    options = parse_options(schema, own)
    if not 0 <= (seed := getattr(options, "seed", 0)) < 2**32:
        raise UserError(f"Expected seed= from 0 to {2**32 - 1}, got {seed}: choose another.")
    opened = source(*(argument for argument in arguments if argument not in own))
    if out := getattr(options, "out", None):
        opened.folder = Path(out).expanduser()
    elif folder:
        opened.folder = opened.run.path / "figures" if opened.run else Path(folder)
    return options, opened
