"""Frozen pretrained networks as encoders of images: torchvision's, DINOv2, and raw pixels.

A backbone is a network, the preprocessing that its weights were trained with, and the layer whose output is taken. Its
identity names all three, because the features depend on each.
"""

import difflib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from models import UserError
from models.precision import half_precision
from models.state_dicts import read_weights, reason
from models.weights import first_line, weights_sha256

__all__ = ["Backbone", "DINOv2", "Pixels", "Preprocessing", "Torchvision", "layer_features"]

Identity: TypeAlias = dict[str, str | int | float | bool]
RANDOM = "random weights"
# Options that torchvision sets for the published weights of these two networks, besides loading them.
PORTED: dict[str, dict[str, Any]] = dict.fromkeys(
    ("googlenet", "inception_v3"), {"transform_input": True, "init_weights": False}
)


@dataclass(frozen=True)
class Preprocessing:
    """Turns uint8 images of any size into a network's input: resize, crop, (x / 255 - mean) / std, on their device.

    Images are resized as PIL does it (antialiased, rounded to uint8), because the weights were trained that way.

    Attributes:
        resize: side in pixels after resizing: of the shortest side ("shortest"), of the longest, with black padding
            ("longest"), or of both ("squash").
        crop: side of the central square that is kept.
    """

    resize: int
    crop: int
    mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 3 crop crop"]:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        if self.mode == "squash":
            size = [self.resize, self.resize]
        elif self.mode == "shortest":
            size = [self.resize]
        else:
            size = [round(side * self.resize / max(images.shape[2:])) for side in images.shape[2:]]
        resized = F.resize(images, size, InterpolationMode(self.interpolation), antialias=True)
        rgb = F.center_crop(resized, [self.crop, self.crop]).expand(-1, 3, -1, -1)
        return F.normalize(F.to_dtype(rgb, torch.float32, scale=True), list(self.mean), list(self.std))

    def identity(self) -> Identity:
        """Return the options as entries of an encoder's identity."""
        texts = {"mean": " ".join(map(str, self.mean)), "std": " ".join(map(str, self.std))}
        return {f"preprocessing/{name}": value for name, value in (asdict(self) | texts).items()}


class Backbone(nn.Module):
    """A frozen network with the interface of an encoder.

    It runs in bfloat16 (autocast) on GPUs that support it and in float32 on CPUs; features are always float32.
    """

    tower = ""  # name of the part of the network that encodes images; empty for the whole network

    def __init__(self, network: nn.Module, prepare: Preprocessing, layer: str | None, identity: Identity) -> None:
        super().__init__()
        self.network: Any = network.requires_grad_(False)
        self.prepare, self.layer = prepare, layer
        self.identity = identity | {"layer": layer or "output"} | prepare.identity()
        self.train(False)
        self.features = self.embed(torch.zeros(1, 3, prepare.crop, prepare.crop, dtype=torch.uint8)).shape[1]

    def train(self, mode: bool = True) -> "Backbone":
        """Keep the network in evaluation mode, because it is frozen."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "batch 3 crop crop"]) -> Tensor:
        """Return the network's own features of preprocessed images."""
        return self.network(x)

    @torch.no_grad()
    def embed(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Encode grey or colour images of any size, on the images' device."""
        x = self.prepare(images)
        with half_precision(x.device, on_cpu=False):
            if self.layer is None:
                return self(x).float()
            return layer_features(self.network, self.layer, lambda: self(x), len(x), self.tower)


def layer_features(network: nn.Module, layer: str, run: Callable[[], Any], batch: int,
            tower: str = "") -> Float[Tensor, "batch features"]:  # fmt: skip
    """Run the network and return the output of one layer, one vector per image of the batch.

    The layer is named as in `network.named_modules()`. Feature maps are averaged over positions, and tokens over all
    tokens, the class token included. If the layer is called more than once, its last output counts.

    Raises:
        UserError: there is no such layer, it is not called, or its output is not one row per image.
    """
    modules = {name: module for name, module in network.named_modules() if name and name.startswith(tower)}
    if layer not in modules:
        names = list(modules)
        hint = suggestion(layer, names) or f" There are {len(names)}, {names[0]} to {names[-1]}."
        raise UserError(f"Expected encoder.layer to be a layer of the network, got {layer}.{hint}")

    outputs: list[Tensor] = []
    # The hook already averages, because the next layer may work in place.
    handle = modules[layer].register_forward_hook(lambda _, __, output: outputs.append(pooled(layer, output, batch)))
    try:
        run()
    finally:
        handle.remove()
    if not outputs:
        raise UserError(f"Expected encoder.layer to take part in encoding images, got {layer}: choose another.")
    return outputs[-1]


def pooled(layer: str, output: Any, batch: int) -> Float[Tensor, "batch features"]:
    """Average a layer's output to one vector per image, as a copy.

    Raises:
        UserError: the output is not one row per image.
    """
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, Tensor) or len(first) != batch or first.ndim not in (2, 3, 4):
        shape = "x".join(map(str, first.shape)) if isinstance(first, Tensor) else type(first).__name__
        raise UserError(
            f"Expected encoder.layer to give a row for each of {batch} images, got {shape} from {layer}: choose "
            "another."
        )
    if first.ndim == 4:  # Images are square, so the channels are last where only the first two sides are equal.
        last = first.shape[1] == first.shape[2] != first.shape[3]
        first = first.flatten(1, 2) if last else first.flatten(2).transpose(1, 2)
    return first.float().mean(1) if first.ndim == 3 else first.to(torch.float32, copy=True)


def suggestion(name: str, names: Collection[str]) -> str:
    """Return a sentence that suggests the names closest to `name`, or an empty string if none is close."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


@contextmanager
def seeded() -> Iterator[None]:
    """Draw the same initial weights every time, without changing the state of the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def weights_error(weights: str | None, architecture: str, error: Exception) -> UserError:
    """Return the error for an architecture that cannot be built with the given weights."""
    return UserError(
        f"Expected {architecture} to load with the weights {weights}, got {reason(error)}: set encoder.architecture to "
        "theirs."
    )


class Pixels(nn.Module):
    """Raw pixels as features, flattened and scaled to [0, 1]: the baseline without an encoder."""

    identity: dict[str, str | int | float | bool] = {"name": "pixels", "preprocessing": "x / 255"}

    def embed(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Return the pixels in [0, 1], channel by channel.

        >>> Pixels().embed(torch.full((1, 1, 1, 2), 255, dtype=torch.uint8))
        tensor([[1., 1.]])
        """
        return images.flatten(1).float() / 255


class Torchvision(Backbone):
    """A classification network of torchvision, see https://docs.pytorch.org/vision/stable/models.html.

    Args:
        architecture: its name there, such as "resnet50".
        weights: the name of published weights ("DEFAULT" for the best of them), a file, or "random".
        layer: name of a layer, such as "layer3"; null for the input of the classifier, the last linear layer.
    """

    def __init__(self, architecture: str = "resnet50", weights: str | None = "DEFAULT",
                 layer: str | None = None) -> None:  # fmt: skip
        import torchvision

        names = torchvision.models.list_models(module=torchvision.models)
        if architecture not in names:
            hint = suggestion(architecture, names)
            raise UserError(f"Expected encoder.architecture to be one of torchvision's, got {architecture}.{hint}")
        published = torchvision.models.get_model_weights(architecture)
        if weights in published.__members__:
            name, preset = published[weights].name, published[weights].transforms()
            network = published_network(architecture, published[weights])
        else:
            # A file named like published weights has their preprocessing; for others that of the newest is used.
            by_file = {Path(member.url).name: member for member in published}
            name = RANDOM if weights == "random" else Path(weights or "").name
            preset = by_file.get(name, published["DEFAULT"]).transforms()
            network = local_network(architecture, weights, list(published.__members__))

        prepare = Preprocessing(preset.resize_size[0], preset.crop_size[0], "shortest", preset.interpolation.value,
                                tuple(preset.mean), tuple(preset.std))  # fmt: skip
        sha256 = weights_sha256(network.state_dict())
        identity: Identity = {"name": "torchvision", "architecture": architecture, "weights": name, "sha256": sha256}
        super().__init__(network if layer else headless(network, architecture), prepare, layer, identity)


def headless(network: nn.Module, architecture: str) -> nn.Module:
    """Replace the last linear layer, the classifier, by the identity."""
    classifier = last_linear(network)
    if classifier is None:
        raise UserError(f"Expected {architecture} to have a linear classifier, got none: choose an encoder.layer.")
    network.set_submodule(classifier, nn.Identity())
    return network


def last_linear(network: nn.Module) -> str | None:
    """Return the name of the last linear layer, the classifier, or None if there is none."""
    return ([None] + [name for name, module in network.named_modules() if isinstance(module, nn.Linear)])[-1]


def published_network(architecture: str, member: Any) -> nn.Module:
    """Load a network with published weights from torch's cache, or download them and print that."""
    import torchvision

    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(member.url).name
    if not file.is_file():
        print(f"encoder=resnet: downloading {member.url} ({member.meta['_file_size']:.0f} MB) to {file}", flush=True)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(member.url, str(file), hash_prefix=file.stem.split("-")[-1])
        except Exception as error:  # urllib, the server and the disk each raise their own types
            raise UserError(
                f"The download of {member.url} failed ({first_line(error)}): put it at {file}, or pass its path as "
                f"encoder.weights=FILE."
            ) from error
    read_weights(file)  # refuses pickled code, which torchvision would run
    with seeded():
        return torchvision.models.get_model(architecture, weights=member)


def local_network(architecture: str, weights: str | None, published: Sequence[str]) -> nn.Module:
    """Build a network of torchvision with weights from a file, or with random weights."""
    import torchvision

    file = Path(weights or "").expanduser()
    if weights != "random" and not file.is_file():
        raise UserError(
            f"Expected encoder.weights to be one of {', '.join(published)}, a file, or random, got {weights}."
        )
    with seeded():
        network = torchvision.models.get_model(architecture, weights=None, **PORTED.get(architecture, {}))
    if weights != "random":
        try:
            network.load_state_dict(read_weights(file, network.state_dict(), last_linear(network)))
        except RuntimeError as error:
            raise weights_error(weights, architecture, error) from error
    return network


class DINOv2(Backbone):
    """A DINOv2 network (Oquab et al. 2023, https://arxiv.org/abs/2304.07193), or another network of timm.

    Args:
        architecture: its name in timm, see `timm.list_models("*dinov2*")`.
        weights: a local file, as timm or the authors publish it, or "random".
        layer: name of a layer, such as "blocks.5"; null for the network's own features, DINOv2's class token.
        size: side that images are resized to, a multiple of the patch size (14), for networks that accept several;
            null for the side that it was trained with.
    """

    def __init__(self, architecture: str = "vit_small_patch14_dinov2.lvd142m", weights: str | None = None,
                 layer: str | None = None, size: int | None = None) -> None:  # fmt: skip
        import timm

        if not timm.is_model(architecture):
            hint = suggestion(architecture, timm.list_models())
            raise UserError(f"Expected encoder.architecture to be one of timm's, got {architecture}.{hint}")
        network = timm_network(architecture, weights, size)
        config = timm.data.resolve_model_data_config(network, {"img_size": size})
        crop = config["input_size"][-1]
        patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))[0]
        if crop % patch:  # timm would ignore the pixels beyond the last whole patch
            raise UserError(f"Expected encoder.size to be a multiple of {architecture}'s {patch}, got {crop}.")
        mode = "squash" if config["crop_mode"] == "squash" else "shortest"
        prepare = Preprocessing(math.floor(crop / config["crop_pct"]), crop, mode, config["interpolation"],
                                tuple(config["mean"]), tuple(config["std"]))  # fmt: skip
        name = RANDOM if weights == "random" else Path(weights or "").name
        sha256 = weights_sha256(network.state_dict())
        identity: Identity = {"name": "dinov2", "architecture": architecture, "weights": name, "sha256": sha256}
        super().__init__(network, prepare, layer, identity)


def classifier_of(network: Any) -> str | None:
    """Return the name of the classifier of a network of timm, or None if it has none."""
    name = network.pretrained_cfg.get("classifier")
    return name if isinstance(name, str) and isinstance(network.get_submodule(name), nn.Linear) else None


def timm_network(architecture: str, weights: str | None, size: int | None) -> nn.Module:
    """Build a network of timm without its classifier, with weights from a file, or with random weights."""
    import timm

    file = Path(weights or "").expanduser()
    if weights != "random" and not file.is_file():
        raise UserError(
            f"Expected encoder.weights to be a file, or random, got {weights}: "
            f"get one from https://huggingface.co/timm/{architecture}."
        )
    # A state dict lets timm adapt tensor names and position embeddings to this network without loading a file itself.
    overlay: dict[str, Any] = {}
    if weights != "random":
        with seeded():
            plain = timm.create_model(architecture, img_size=size)
        overlay = {"state_dict": read_weights(file, plain.state_dict(), classifier_of(plain))}
    try:
        with seeded():
            network: Any = timm.create_model(architecture, bool(overlay), pretrained_cfg_overlay=overlay, img_size=size)
    except Exception as error:  # timm and torch each raise their own types, also for a size that is not supported
        raise weights_error(weights, architecture, error) from error
    network.pretrained_cfg.pop("state_dict", None)
    network.reset_classifier(0)  # Only now: without a classifier, timm would also accept weights that do not fit.
    return network
