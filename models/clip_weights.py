"""Find and load weights of CLIP through open_clip, with the activation and preprocessing of their training."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from models import UserError, check_choice
from models.backbones import RANDOM, Preprocessing, seeded, suggestion
from models.state_dicts import reason
from models.weights import first_line

__all__ = [
    "RESIZE",
    "Source",
    "choose_activation",
    "find_source",
    "load_model",
    "load_tokenizer",
    "preprocessing",
    "triple",
]

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # in a folder, or on the hub
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # as open_clip names them
RESIZE = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class Source:
    """Weights of a model: where they are, and how they were trained as far as it is known.

    Attributes:
        model: the model's name in open_clip, or "local-dir:" and a folder.
        architecture: the architecture's entry in the identity.
        weights: the weights' entry in the identity.
        file: their local file, or their place on the hub, "owner/repository/" with an optional file name; None where
            `model` determines it, or for random weights.
        quick_gelu: whether the activation is quick-GELU; None if unknown.
        preprocessing: the known ones of `PREPROCESSING`.
    """

    model: str
    architecture: str
    weights: str
    file: Path | str | None
    quick_gelu: bool | None
    preprocessing: dict[str, Any]


def triple(name: str, value: Sequence[float]) -> tuple[float, ...]:
    """Return the three numbers of an option.

    Raises:
        UserError: there are more or fewer.
    """
    if len(value) != 3:
        raise UserError(f"Expected encoder.{name} to be three numbers, of R, G and B, got {list(value)}.")
    return tuple(float(v) for v in value)


def find_source(architecture: str, weights: str | None, given: dict[str, Any]) -> Source:
    """Find the weights that the settings name: a tag, a folder, a file, or random weights.

    Raises:
        UserError: there is no such architecture, or no such weights.
    """
    import open_clip

    path = Path(weights or "").expanduser()
    architecture = architecture.replace("/", "-")  # papers write ViT-B/32
    known = open_clip.get_pretrained_cfg(architecture, weights or "")
    if weights and not known and path.is_dir():
        return folder_source(path)
    if architecture not in open_clip.list_models():
        hint = suggestion(architecture, open_clip.list_models())
        raise UserError(f"Expected encoder.architecture to be one of open_clip's, got {architecture}.{hint}")

    quick = bool(open_clip.get_model_config(architecture).get("quick_gelu"))
    if known:
        trained = {name: known[name] for name in PREPROCESSING if name in known}
        quick = quick or bool(known.get("quick_gelu"))
        return Source(architecture, architecture, str(weights), known.get("hf_hub", ""), quick, trained)
    if weights == "random":
        return Source(architecture, architecture, RANDOM, None, quick or None, {})
    if weights and path.is_file():
        trained = common_preprocessing(architecture, given)
        return Source(architecture, architecture, path.name, path.resolve(), quick or None, trained)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    raise UserError(
        f"Expected encoder.weights to be a tag of {architecture} ({', '.join(tags) or 'it has none'}), a file, "
        f"a folder with {CONFIG}, or random, got {weights}."
    )


def folder_source(folder: Path) -> Source:
    """Read a folder that states its architecture, activation and preprocessing, as open_clip's models on the hub do.

    Raises:
        UserError: its configuration cannot be read, or it holds no weights.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
        model = config["model_cfg"]
        known = config["preprocess_cfg"]
        trained = {name: known[name] for name in PREPROCESSING if known.get(name) is not None}
        trained |= {name: triple(name, trained[name]) for name in ("mean", "std") if name in trained}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"Expected {folder / CONFIG} with model_cfg and preprocess_cfg ({reason(error)}): "
            f"put the one that belongs to the weights there, or pass their file as encoder.weights."
        ) from error
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        raise UserError(f"Expected weights in {folder}, got none: put {' or '.join(WEIGHTS)} there.")
    sha256 = hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()
    return Source(f"local-dir:{folder}", sha256, folder.resolve().name, None, bool(model.get("quick_gelu")), trained)


def common_preprocessing(architecture: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the preprocessing that all published weights of an architecture share, for weights in a file.

    Raises:
        UserError: they differ in an option that is not given.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    configs = {tag: open_clip.get_pretrained_cfg(architecture, tag) for tag in tags}
    common: dict[str, Any] = {}
    for name in [name for name in PREPROCESSING if name not in given]:
        values = {config[name]: tag for tag, config in configs.items()}
        if len(values) > 1:
            option = name.removesuffix("_mode")
            listed = "; ".join(f"{value} of {tag}" for value, tag in values.items())
            raise UserError(
                f"Expected encoder.{option} for weights in a file, as the published ones of {architecture} "
                f"differ in it ({listed}): set that of yours."
            )
        if values:
            common[name] = next(iter(values))
    return common


def choose_activation(source: Source, given: bool | None) -> bool:
    """Return whether to use quick-GELU, as the source states it, or else as the option is given.

    Raises:
        UserError: neither is known, or they contradict each other.
    """
    stated = source.quick_gelu
    if stated is None and given is None and source.file is not None:
        raise UserError(
            f"Expected encoder.quick_gelu=true or false, as the file {source.weights} does not say with which "
            f"activation it was trained: true for OpenAI's weights and some of LAION-400M, DFN and MetaCLIP, "
            f"false for others."
        )
    if stated is not None and given is not None and stated != given:
        raise UserError(
            f"encoder.quick_gelu={str(given).lower()} contradicts {source.weights} of {source.model}, "
            f"which {'uses quick-GELU' if stated else 'uses GELU'}: leave it at null."
        )
    return bool(given if stated is None else stated)


def preprocessing(model: Any, source: Source, given: dict[str, Any]) -> Preprocessing:
    """Build the preprocessing from the given options, else the source's, else open_clip's default, which is OpenAI's.

    Raises:
        UserError: the way of resizing is unknown, or the model does not read square images.
    """
    import open_clip

    for name, value in given.items():
        if value != (trained := source.preprocessing.get(name, value)):
            print(f"encoder=clip: {name} is {value} as set; {source.weights} was trained with {trained}.")
    values = open_clip.get_model_preprocess_cfg(model) | source.preprocessing | given
    check_choice(f"the resize_mode of {source.weights}", values["resize_mode"], RESIZE)
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(f"Expected a model that reads square images, got {height}x{width} of {source.weights}.")
    interpolation = "bilinear" if values["interpolation"] == "bilinear" else "bicubic"  # as in open_clip
    return Preprocessing(height, height, values["resize_mode"], interpolation,
                         tuple(values["mean"]), tuple(values["std"]))  # fmt: skip


def load_model(source: Source, quick_gelu: bool) -> nn.Module:
    """Load a model with its weights strictly, as open_clip does: no tensor may be missing or left over.

    Raises:
        UserError: the weights cannot be loaded, or do not fit.
    """
    import open_clip

    file = download(source, source.file) if isinstance(source.file, str) else source.file
    try:
        announce_download(source.model, "hf_model_name", "config.json")
        with without_log_handlers(), seeded():
            return open_clip.create_model(
                source.model,
                str(file) if file else None,
                force_quick_gelu=quick_gelu,
                pretrained_text=False,  # otherwise open_clip would download part of a model with random weights
                require_pretrained=source.weights != RANDOM,
            )
    except Exception as error:  # open_clip, torch, timm and transformers each raise their own types
        if "vision_model." in str(error):
            remedy = "these are the tensors of the transformers library, give the model's weights for open_clip"
        elif "TorchScript" in str(error):
            remedy = "this is a program, give the model's weights as safetensors, or a tag"
        else:
            remedy = "give weights of this architecture, or set encoder.architecture to theirs"
        raise UserError(
            f"Expected {source.model} to load with {source.weights}, got {reason(error)}: {remedy}."
        ) from error


def download(source: Source, place: str) -> Path:
    """Return the file of published weights from the hub's cache, or download it and print that.

    Raises:
        UserError: they are not in the cache and the download failed.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    repository, _, file = place.rpartition("/")
    names = [f"{file.rpartition('.')[0]}.safetensors", file] if file else WEIGHTS
    try:
        for name in names:
            if isinstance(cached := try_to_load_from_cache(repository, name), str):
                return Path(cached)
        sizes = {f.rfilename: f.size or 0 for f in HfApi().model_info(repository, files_metadata=True).siblings or []}
        name = next(name for name in names if name in sizes)
        size = f"{sizes[name] / 1e6:.0f} MB"
        print(f"encoder=clip: downloading {name} of {repository} ({size}) to {HF_HUB_CACHE}", flush=True)
        return Path(hf_hub_download(repository, name))
    except Exception as error:  # the hub's client, its transport and the disk each raise their own types
        raise UserError(
            f"The weights {source.weights} of {source.model} are not in {HF_HUB_CACHE}, and their download failed "
            f"({first_line(error)}): put {CONFIG} and {names[0]} of https://huggingface.co/{repository} into a folder "
            f"and pass encoder.weights=FOLDER."
        ) from error


def announce_download(model: str, key: str, file: str) -> None:
    """Print that a part of the text tower is downloaded from the hub, which open_clip does not announce."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    name = open_clip.get_model_config(model)["text_cfg"].get(key)
    local = model.startswith("local-dir:") and key == "hf_tokenizer_name"  # a local folder holds its tokenizer
    if name and not local and not isinstance(try_to_load_from_cache(name, file), str):
        print(f"encoder=clip: downloading the text tower's {key} {name} to {HF_HUB_CACHE}", flush=True)


def load_tokenizer(model: str) -> Any:
    """Load the model's own tokenizer.

    Raises:
        UserError: it cannot be loaded.
    """
    import open_clip

    announce_download(model, "hf_tokenizer_name", "tokenizer_config.json")
    try:
        with without_log_handlers():
            return open_clip.get_tokenizer(model)
    except Exception as error:  # transformers, the hub's client and the disk each raise their own types
        raise UserError(
            f"The tokenizer of {model} cannot be loaded ({first_line(error)}): install the transformers package, "
            f"and where there is no network, put the tokenizer's files into a folder with the weights."
        ) from error


@contextmanager
def without_log_handlers() -> Iterator[None]:
    """Keep open_clip, which logs through the root logger, from configuring logging for the whole process."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
