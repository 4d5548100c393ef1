"""CLIP as a frozen encoder, through open_clip: any of its models, image and text towers, layers by name.

Weights carry neither the activation that they were trained with nor their preprocessing, and with the wrong ones
features are quietly worse (open_clip's issues 771, 915 and 1068). Here both are known from the tag or the folder, or
stated, and they are part of the encoder's identity.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from models import UserError, check_choice
from models.backbones import RANDOM, Backbone, Preprocessing, near_ones, reason, seeded
from models.encoders import first_line, weights_sha256
from models.precision import half_precision

__all__ = ["CLIP"]

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # in a folder, or on the hub
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # as open_clip names them

RESIZE = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class Source:
    """Where weights are, and what is known of how they were trained.

    Attributes:
        model: the model as open_clip takes it, a name or "local-dir:" and a folder.
        architecture: what stands for it in the identity.
        weights: what stands for them in the identity.
        file: their file on this machine, or where they are on the hub, "owner/repository/" and perhaps a file's name;
            None where the model says it, or for random weights.
        quick_gelu: the activation, None where nothing says it.
        preprocessing: what is known of `PREPROCESSING`.
    """

    model: str
    architecture: str
    weights: str
    file: Path | str | None
    quick_gelu: bool | None
    preprocessing: dict[str, Any]


class CLIP(Backbone):
    """A CLIP model (Radford et al. 2021, https://arxiv.org/abs/2103.00020; https://github.com/mlfoundations/open_clip).

    Args:
        architecture: its name in open_clip, such as "ViT-B-32"; not read where weights is a folder, which says it.
        weights: a tag of the architecture's published weights, such as "openai"; a file; a folder with
            open_clip_config.json and the weights; or "random".
        quick_gelu: whether the weights were trained with the activation x * sigmoid(1.702 x) in place of GELU; null
            where the weights say it: a tag or a folder does, a file does not.
        layer: a layer by name, such as "visual.transformer.resblocks.5"; null for the image embedding.
        normalize: to unit length, as CLIP's features are compared by their cosine.
        mean: of R, G and B in [0, 1], taken off the image; null for what the weights were trained with, as for the
            next three.
        std: of R, G and B, that the image is divided by.
        interpolation: "bicubic" or "bilinear".
        resize: which side of an image gets the model's size: "shortest", "longest", or both, "squash".
    """

    tower = "visual"

    def __init__(self, architecture: str = "ViT-B-32", weights: str | None = "openai", quick_gelu: bool | None = None,
                 layer: str | None = None, normalize: bool = True, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, interpolation: str | None = None,
                 resize: str | None = None) -> None:  # fmt: skip
        check_choice("encoder.interpolation", interpolation, [None, "bicubic", "bilinear"])
        check_choice("encoder.resize", resize, [None, *RESIZE])
        values = {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize}
        stated = {name: value if isinstance(value, str) else triple(name, value)
                  for name, value in values.items() if value is not None}  # fmt: skip

        source = find_source(architecture, weights, stated)
        activation = agreed_activation(source, quick_gelu)
        model = load_model(source, activation)
        prepare = preprocessing(model, source, stated)
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
        """Features of grey or colour images of any size, on the images' device."""
        features = super().embed(images)
        return F.normalize(features, dim=1) if self.normalize else features

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.source_model)

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        """Embeddings of texts in the space of the image embeddings, whichever layer is read; long ones are cut off."""
        device = next(self.parameters()).device
        with half_precision(device, on_cpu=False):
            parts = [self.network.encode_text(self.tokenizer(texts[i : i + 256]).to(device), normalize=False)
                     for i in range(0, len(texts), 256)]  # fmt: skip
        features = torch.cat(parts).float()
        return F.normalize(features, dim=1) if self.normalize else features


def triple(name: str, value: Sequence[float]) -> tuple[float, ...]:
    if len(value) != 3:
        raise UserError(f"Expected encoder.{name} to be three numbers, of R, G and B, got {list(value)}.")
    return tuple(float(v) for v in value)


def find_source(architecture: str, weights: str | None, stated: dict[str, Any]) -> Source:
    """What is meant by the settings: a tag, a folder, a file, or random weights."""
    import open_clip

    path = Path(weights or "").expanduser()
    architecture = architecture.replace("/", "-")  # ViT-B/32, as papers write it
    known = open_clip.get_pretrained_cfg(architecture, weights or "")
    if weights and not known and path.is_dir():
        return folder_source(path)
    if architecture not in open_clip.list_models():
        hint = near_ones(architecture, open_clip.list_models())
        raise UserError(f"Expected encoder.architecture to be one of open_clip's, got {architecture}.{hint}")

    quick = bool(open_clip.get_model_config(architecture).get("quick_gelu"))
    if known:
        trained = {name: known[name] for name in PREPROCESSING if name in known}
        quick = quick or bool(known.get("quick_gelu"))
        return Source(architecture, architecture, str(weights), known.get("hf_hub", ""), quick, trained)
    if weights == "random":
        return Source(architecture, architecture, RANDOM, None, quick or None, {})
    if weights and path.is_file():
        trained = common_preprocessing(architecture, stated)
        return Source(architecture, architecture, path.name, path.resolve(), quick or None, trained)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    raise UserError(
        f"Expected encoder.weights to be a tag of {architecture} ({', '.join(tags) or 'it has none'}), a file, "
        f"a folder with {CONFIG}, or random, got {weights}."
    )


def folder_source(folder: Path) -> Source:
    """A folder that says its architecture, activation and preprocessing, as open_clip's models on the hub do."""
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
        raise UserError(f"{folder} holds no weights: put {' or '.join(WEIGHTS)} there.")
    sha256 = hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()
    return Source(f"local-dir:{folder}", sha256, folder.resolve().name, None, bool(model.get("quick_gelu")), trained)


def common_preprocessing(architecture: str, stated: dict[str, Any]) -> dict[str, Any]:
    """What all published weights of the architecture were trained with; of weights in a file nothing else is known.

    Raises:
        UserError: they differ in something that is not stated.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    configs = {tag: open_clip.get_pretrained_cfg(architecture, tag) for tag in tags}
    common: dict[str, Any] = {}
    for name in [name for name in PREPROCESSING if name not in stated]:
        values = {config[name]: tag for tag, config in configs.items()}
        if len(values) > 1:
            option = name.removesuffix("_mode")
            told = "; ".join(f"{value} of {tag}" for value, tag in values.items())
            raise UserError(
                f"Expected encoder.{option} for weights in a file, as the published ones of {architecture} "
                f"differ in it ({told}): set that of yours."
            )
        if values:
            common[name] = next(iter(values))
    return common


def agreed_activation(source: Source, asked: bool | None) -> bool:
    """Whether to use quick-GELU: what the source says, or else what was asked for.

    Raises:
        UserError: neither says it, or they contradict each other.
    """
    says = source.quick_gelu
    if says is None and asked is None and source.file is not None:
        raise UserError(
            f"Expected encoder.quick_gelu=true or false, as the file {source.weights} does not say with which "
            f"activation it was trained: true for OpenAI's weights and some of LAION-400M, DFN and MetaCLIP, "
            f"false for others."
        )
    if says is not None and asked is not None and says != asked:
        raise UserError(
            f"encoder.quick_gelu={str(asked).lower()} contradicts {source.weights} of {source.model}, "
            f"which {'uses quick-GELU' if says else 'uses GELU'}: leave it at null."
        )
    return bool(asked if says is None else says)


def preprocessing(model: Any, source: Source, stated: dict[str, Any]) -> Preprocessing:
    """What is stated, or else known, or else open_clip's own default, OpenAI's."""
    import open_clip

    for name, value in stated.items():
        if value != (trained := source.preprocessing.get(name, value)):
            print(f"encoder=clip: {name} is {value} as set; {source.weights} was trained with {trained}.")
    values = open_clip.get_model_preprocess_cfg(model) | source.preprocessing | stated
    check_choice(f"the resize_mode of {source.weights}", values["resize_mode"], RESIZE)
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(f"Expected a model that reads square images, got {height}x{width} of {source.weights}.")
    interpolation = "bilinear" if values["interpolation"] == "bilinear" else "bicubic"  # as open_clip reads it
    return Preprocessing(height, height, values["resize_mode"], interpolation,
                         tuple(values["mean"]), tuple(values["std"]))  # fmt: skip


def load_model(source: Source, quick_gelu: bool) -> nn.Module:
    """The model with its weights, as strictly as open_clip loads them: all tensors, no other ones."""
    import open_clip

    file = download(source, source.file) if isinstance(source.file, str) else source.file
    try:
        announce(source.model, "hf_model_name", "config.json")
        with quiet(), seeded():
            return open_clip.create_model(
                source.model,
                str(file) if file else None,
                force_quick_gelu=quick_gelu,
                pretrained_text=False,  # or random weights would be fetched in part
                require_pretrained=source.weights != RANDOM,
            )
    except Exception as error:  # open_clip, torch, timm and transformers each raise their own kinds
        if "vision_model." in str(error):
            remedy = "these are the tensors of the transformers library, give the model's weights for open_clip"
        elif "TorchScript" in str(error):
            remedy = "this is a program, give the model's weights as safetensors, or a tag"
        else:
            remedy = "give weights of this architecture, or set encoder.architecture to theirs"
        raise UserError(f"{source.model} cannot be made with {source.weights} ({reason(error)}): {remedy}.") from error


def download(source: Source, place: str) -> Path:
    """The file of published weights, from the hub's cache or, announced, the hub."""
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
    except Exception as error:  # the hub's client, its transport and the disk each raise their own kind
        raise UserError(
            f"The weights {source.weights} of {source.model} are not in {HF_HUB_CACHE}, and their download failed "
            f"({first_line(error)}): put {CONFIG} and {names[0]} of https://huggingface.co/{repository} into a folder "
            f"and pass encoder.weights=FOLDER."
        ) from error


def announce(model: str, key: str, file: str) -> None:
    """Say that a part of the text tower comes from the hub, which open_clip would fetch without a word."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    name = open_clip.get_model_config(model)["text_cfg"].get(key)
    local = model.startswith("local-dir:") and key == "hf_tokenizer_name"  # which is then in there
    if name and not local and not isinstance(try_to_load_from_cache(name, file), str):
        print(f"encoder=clip: downloading the text tower's {key} {name} to {HF_HUB_CACHE}", flush=True)


def load_tokenizer(model: str) -> Any:
    """The model's own tokenizer."""
    import open_clip

    announce(model, "hf_tokenizer_name", "tokenizer_config.json")
    try:
        with quiet():
            return open_clip.get_tokenizer(model)
    except Exception as error:  # transformers, the hub's client and the disk each raise their own kind
        raise UserError(
            f"The tokenizer of {model} cannot be loaded ({first_line(error)}): install the transformers package, "
            f"and where there is no network, put the tokenizer's files into a folder with the weights."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip, which logs through the root logger, from setting up logging for the whole process."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
