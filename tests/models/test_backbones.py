"""Frozen networks of torchvision and timm, against those libraries' own pipelines on PIL images."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import _create_vision_transformer
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from models import UserError
from models.backbones import DINOv2, Pixels, Preprocessing, Torchvision, layer_features

CONFIGS = Path(__file__).parents[2] / "configs" / "encoder"
DINO = "vit_small_patch14_dinov2.lvd142m"
SMALL = "shufflenet_v2_x0_5"
PUBLISHED = "shufflenetv2_x0.5-f707e7126e.pth"


@register_model
def vit_dwarf_patch14_dinov2(pretrained: bool = False, **settings: Any) -> nn.Module:
    """DINOv2's smallest network, smaller; in all else, such as its preprocessing and its files, what timm makes it."""
    width = {"patch_size": 14, "embed_dim": 32, "depth": 3, "num_heads": 2, "init_values": 1.0}
    return _create_vision_transformer("vit_small_patch14_dinov2", pretrained, **(width | settings))


def drawn_images(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    """Smooth images with some noise: on pure noise, rounding would dominate."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    phase = torch.rand(count, channels, 1, 1) * 6
    waves = 127 + 90 * torch.sin(x * 2 + phase) * torch.cos(y * 3 - phase)
    return (waves + 8 * torch.randn(count, channels, height, width)).clamp(0, 255).to(torch.uint8)


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()).convert("RGB")


def as_pil(images: Tensor, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    return torch.stack([transform(pil(image)) for image in images])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network of torchvision."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("torchvision") / "small.pth"
    network = torchvision.models.get_model(SMALL)
    for module in network.modules():  # statistics as after some training, so that training mode would show
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(cast(Tensor, module.running_mean), -0.1, 0.1)
            nn.init.uniform_(cast(Tensor, module.running_var), 0.5, 2)
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as DINOv2's authors publish them: with a mask token, positions of 37 x 37 patches."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("timm") / "dinov2.pth"
    state = vit_dwarf_patch14_dinov2().state_dict()
    torch.save(state | {"mask_token": torch.zeros(1, 32), "pos_embed": torch.randn(1, 1 + 37**2, 32)}, file)
    return file


@pytest.mark.parametrize("height, width, channels", [(32, 32, 3), (28, 28, 1), (300, 300, 3), (178, 218, 3)])
@pytest.mark.parametrize("architecture", ["resnet18", "swin_t"], ids=["bilinear", "bicubic"])
def test_preprocessing_is_torchvisions(architecture: str, height: int, width: int, channels: int) -> None:
    preset = torchvision.models.get_model_weights(architecture)["DEFAULT"].transforms()
    prepare = Preprocessing(preset.resize_size[0], preset.crop_size[0], "shortest", preset.interpolation.value,
                            tuple(preset.mean), tuple(preset.std))  # fmt: skip
    images = drawn_images(2, height, width, channels)
    difference = (prepare(images) - as_pil(images, preset)).abs() * torch.tensor(prepare.std).reshape(3, 1, 1) * 255
    assert difference.max() < 2.01 and difference.mean() < 0.02  # in steps of 1/255


def test_the_default_is_what_the_classifier_reads(file: Path) -> None:
    encoder = Torchvision(SMALL, str(file))
    images = drawn_images(3, 40, 40)
    network = torchvision.models.get_model(SMALL)
    network.load_state_dict(torch.load(file, weights_only=True))
    network.fc = nn.Identity()
    x = as_pil(images, torchvision.models.get_model_weights(SMALL)["DEFAULT"].transforms())
    with torch.no_grad():
        expected = network.eval()(x)
    features = encoder.embed(images)
    assert features.shape == (3, 1024) and encoder.features == 1024 and features.dtype == torch.float32
    torch.testing.assert_close(features, expected, rtol=0, atol=0.02 * expected.std().item())


def test_layers_are_those_of_torchvisions_extractor() -> None:
    """Among them bn2, whose output the network overwrites in the next step."""
    encoder = Torchvision("resnet18", "random", "layer3.0.bn2")
    images = drawn_images(2, 24, 24)
    x = encoder.prepare(images)
    layers = ["layer1", "layer2.0.conv1", "layer3.0.bn2", "layer3.1", "avgpool", "fc"]
    for layer in layers:
        with torch.no_grad():
            expected = create_feature_extractor(encoder.network, [layer])(x)[layer]
            features = layer_features(encoder.network, layer, lambda: encoder(x), 2)
        expected = expected if expected.ndim == 2 else expected.mean((2, 3))
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        if layer == "layer3.0.bn2":
            torch.testing.assert_close(encoder.embed(images), features)
            assert encoder.features == features.shape[1] == 256 and encoder.identity["layer"] == layer


class Toy(nn.Module):
    """Layers whose outputs take every form that occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.unused = nn.Identity(), nn.Identity()
        self.act = nn.ReLU(inplace=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last_channels, self.twice, self.sequence_first = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (batch, 8, 5, 5)
        tokens = self.tokens(x.flatten(2).transpose(1, 2) * 1)
        self.attention(tokens, tokens, tokens)
        self.last_channels(x.permute(0, 2, 3, 1))
        self.sequence_first(tokens.transpose(0, 1))
        self.twice(x)
        return self.act(self.twice(x - 1))


def test_every_form_of_output_becomes_a_row_per_image() -> None:
    toy, x = Toy(), torch.randn(3, 8, 5, 5)
    tokens = x.flatten(2).transpose(1, 2)
    expected = {
        "tokens": tokens.mean(1),
        "attention": toy.attention(tokens, tokens, tokens)[0].mean(1),
        "last_channels": x.mean((2, 3)),
        "twice": (x - 1).mean((2, 3)),  # not what the ReLU left in its place
        "act": (x - 1).relu().mean((2, 3)),
    }
    for layer, features in expected.items():
        torch.testing.assert_close(layer_features(toy, layer, lambda: toy(x), 3), features)
    with pytest.raises(UserError, match="give a row for each of 3 images, got 25x3x8 from sequence_first"):
        layer_features(toy, "sequence_first", lambda: toy(x), 3)
    with pytest.raises(UserError, match="encoder.layer to take part in encoding images, got unused"):
        layer_features(toy, "unused", lambda: toy(x), 3)
    assert not any(module._forward_hooks for module in toy.modules())


@pytest.mark.parametrize(
    "layer, hint",
    [("stage3.0.branch3", "Did you mean stage3.0.branch2"), ("pool", "Did you mean maxpool"), ("?", "conv1 to fc")],
)
def test_no_such_layer(layer: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"be a layer of the network, got .*{hint}"):
        Torchvision(SMALL, "random", layer)


def test_random_weights_say_so_repeat_and_leave_no_trace() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = Torchvision(SMALL, "random").identity
    torch.testing.assert_close(torch.rand(3), expected)
    assert first == Torchvision(SMALL, "random").identity
    assert first["weights"] == "random weights" and len(str(first["sha256"])) == 64


def test_frozen_and_in_evaluation_mode(file: Path) -> None:
    encoder = Torchvision(SMALL, str(file))
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.embed(drawn_images(1, 16, 16)).requires_grad
    images = drawn_images(4, 16, 16)
    torch.testing.assert_close(encoder.embed(images)[:1], encoder.embed(images[:1]), rtol=1e-4, atol=1e-5)


def test_files_of_weights(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    save_file(state, tmp_path / "small.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "training.ckpt")
    torch.save({name: value + 1 for name, value in state.items()}, tmp_path / "others.pth")
    files = (file, *map(tmp_path.joinpath, ("small.safetensors", "training.ckpt", "others.pth")))
    plain, safe, wrapped, other = (Torchvision(SMALL, str(each)).identity for each in files)
    assert plain["weights"] == "small.pth" and safe["weights"] == "small.safetensors"
    assert plain["sha256"] == safe["sha256"] == wrapped["sha256"] != other["sha256"]


def test_published_files_are_read_with_their_own_preprocessing(tmp_path: Path) -> None:
    first, newest = tmp_path / "mobilenet_v2-b0353104.pth", tmp_path / "mobilenet.pth"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), first)
    newest.symlink_to(first)
    one, two = (Torchvision("mobilenet_v2", str(each)).identity for each in (first, newest))
    assert {key for key in one if one[key] != two[key]} == {"weights", "preprocessing/resize"}
    assert (one["preprocessing/resize"], two["preprocessing/resize"]) == (256, 232)  # IMAGENET1K_V1 and _V2


def test_published_weights_are_announced_and_the_cache_is_asked_first(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def download(url: str, target: str, hash_prefix: str) -> None:
        asked.append((url.rpartition("/")[2], hash_prefix))
        Path(target).symlink_to(file)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first, second = (Torchvision(SMALL, weights).identity for weights in ("IMAGENET1K_V1", "DEFAULT"))
    assert asked == [(PUBLISHED, "f707e7126e")] and first == second
    assert capsys.readouterr().out.count(f"{PUBLISHED} (5 MB) to {tmp_path / 'checkpoints' / PUBLISHED}\n") == 1
    assert first == Torchvision(SMALL, str(file)).identity | {"weights": "IMAGENET1K_V1"}


def test_published_weights_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError, match=r"resnet18-f37072fd.pth failed \(no route to host\): put it at .*checkpoints"):
        Torchvision("resnet18")


class Harm:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return print, ("code in the file was run",)


def test_no_code_in_a_file_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "checkpoints" / PUBLISHED
    file.parent.mkdir()
    torch.save({"fc.bias": Harm()}, file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for weights in ("DEFAULT", str(file)):
        with pytest.raises(UserError, match="Expected a file of weights at .*, got one that cannot be read"):
            Torchvision(SMALL, weights)
    with pytest.raises(UserError, match="Expected a file of weights at .*, got one that cannot be read"):
        DINOv2("vit_dwarf_patch14_dinov2", str(file))
    assert "was run" not in capsys.readouterr().out


def test_googlenet_reads_images_as_its_published_weights_do() -> None:
    assert Torchvision("googlenet", "random").network.transform_input
    with pytest.raises(UserError, match="encoder.layer to take part in encoding images, got aux1.fc1"):
        Torchvision("googlenet", "random", "aux1.fc1")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 broken"], ids=["empty", "text", "zip"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_broken_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"Expected a file of weights at .*{name}, got .*: give a state dict") as caught:
        Torchvision(SMALL, str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "encoder, architecture",
    [(Torchvision, "mobilenet_v3_small"), (DINOv2, "vit_dwarf_patch14_dinov2"), (DINOv2, "test_vit.r160_in1k")],
)
def test_weights_of_another_network(file: Path, encoder: type[nn.Module], architecture: str) -> None:
    with pytest.raises(UserError, match=f"Expected {architecture} to load with the weights .*{file}, got") as caught:
        encoder(architecture, str(file))
    assert "\n" not in str(caught.value) and "set encoder.architecture to theirs" in str(caught.value)


@pytest.mark.parametrize(
    "settings, line",
    [
        (("resnet51",), "one of torchvision's, got resnet51. Did you mean resnet50"),
        (("fasterrcnn_resnet50_fpn",), "one of torchvision's, got fasterrcnn_resnet50_fpn"),
        (("resnet18", "V3"), "IMAGENET1K_V1, DEFAULT, a file, or random, got V3"),
        (("resnet18", None), "a file, or random, got None"),
        (("squeezenet1_0", "random"), "squeezenet1_0 to have a linear classifier, got none: choose an encoder.layer"),
    ],
)
def test_settings_that_torchvision_does_not_know(settings: tuple[Any, ...], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Torchvision(*settings)


def test_dinov2_is_timms(dino: Path) -> None:
    encoder = DINOv2("vit_dwarf_patch14_dinov2", str(dino), size=56)
    images = drawn_images(2, 64, 64)
    network = vit_dwarf_patch14_dinov2(True, pretrained_cfg_overlay={"file": str(dino)}, img_size=56).eval()
    config = timm.data.resolve_model_data_config(network, {"img_size": 56})
    x = as_pil(images, timm.data.create_transform(**config))
    with torch.no_grad():
        expected, tokens = network(x), network.forward_features(x)
    features = encoder.embed(images)
    assert features.shape == (2, 32) and encoder.features == 32 and x.shape == (2, 3, 56, 56)
    torch.testing.assert_close(features, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(expected, tokens[:, 0])  # of unit variance: after the last normalisation
    assert encoder.identity["weights"] == dino.name and encoder.identity["preprocessing/crop"] == 56
    assert "state_dict" not in encoder.network.pretrained_cfg  # no second copy is kept

    middle = DINOv2("vit_dwarf_patch14_dinov2", str(dino), "blocks.1", size=56)
    with torch.no_grad():
        patches, first = network.forward_intermediates(x, indices=[1], return_prefix_tokens=True, output_fmt="NLC")[1][
            0
        ]
    rows = torch.cat([first, patches], 1).mean(1)  # the class token and the patches
    torch.testing.assert_close(middle.embed(images), rows, rtol=0, atol=0.02)


def test_any_other_network_of_timm(tmp_path: Path) -> None:
    """With a classifier, which is left out, and a crop, which is kept."""
    state = timm.create_model("test_vit.r160_in1k").state_dict()
    torch.save(state, tmp_path / "vit.pth")
    encoder = DINOv2("test_vit.r160_in1k", str(tmp_path / "vit.pth"))
    config = timm.data.resolve_model_data_config(encoder.network)
    images = drawn_images(2, 100, 100)
    x = as_pil(images, timm.data.create_transform(**config))
    assert config["crop_pct"] < 1 and encoder.prepare.resize == math.floor(160 / config["crop_pct"])
    assert (encoder.prepare(images) - x).abs().max() * 255 * max(encoder.prepare.std) < 2.01
    del state["norm.weight"]
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(UserError, match='Missing key.* "norm.weight"'):
        DINOv2("test_vit.r160_in1k", str(tmp_path / "vit.pth"))


def test_random_weights_of_timm() -> None:
    first, second = (DINOv2("test_vit.r160_in1k", "random").identity for _ in range(2))
    assert first == second and first["weights"] == "random weights"


@pytest.mark.parametrize(
    "settings, line",
    [
        ({}, f"a file, or random, got None: get one from https://huggingface.co/timm/{DINO}"),
        ({"weights": "/no/where"}, "got /no/where"),
        ({"architecture": "vit_tiny_patch14_dinov2"}, "one of timm's, got vit_tiny_patch14_dinov2. Did you mean vit_"),
        ({"architecture": "hf-hub:some/where"}, "one of timm's, got hf-hub:some/where"),
        (
            {"architecture": "vit_dwarf_patch14_dinov2", "weights": "random", "size": 60},
            "size to be a multiple .* 14, got 60",
        ),
        ({"architecture": "test_resnet", "weights": "random", "size": 64}, "test_resnet to load .*img_size"),
        ({"architecture": "test_vit.x", "weights": "random"}, "test_vit.x to load .*[Ii]nvalid pretrained tag"),
    ],
)
def test_settings_that_timm_does_not_know(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        DINOv2(**settings)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels(channels: int) -> None:
    images = torch.randint(0, 256, (3, channels, 8, 8), dtype=torch.uint8)
    features = Pixels().embed(images)
    assert features.shape == (3, channels * 64) and features.dtype == torch.float32
    assert features.min() >= 0 and features.max() <= 1
    torch.testing.assert_close(features.reshape(images.shape) * 255, images.float())


@pytest.mark.parametrize("name, encoder", [("resnet", Torchvision), ("dinov2", DINOv2)])
def test_configuration_shows_every_argument(name: str, encoder: type[nn.Module]) -> None:
    plain = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"), resolve=False))
    plain = plain.get("encoder", plain)
    defaults = {key: argument.default for key, argument in inspect.signature(encoder).parameters.items()}
    assert plain.pop("_target_") == f"models.backbones.{encoder.__name__}"
    assert set(plain) == set(defaults)
    overridden = {"dinov2": {"size"}}.get(name, set())
    assert {key for key in defaults if plain[key] != defaults[key]} == overridden


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_on_a_gpu(file: Path) -> None:
    encoder = Torchvision(SMALL, str(file))
    images = drawn_images(4, 64, 64)
    expected = encoder.embed(images)
    features = encoder.cuda().embed(images.cuda()).cpu()
    assert features.dtype == torch.float32 and not torch.equal(features, expected)
    assert torch.nn.functional.cosine_similarity(features, expected).min() > 0.99


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    """Checkpoints as other projects save them."""
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    head = {"head.0": torch.ones(3, 3)}
    ten = state | {"fc.weight": torch.zeros(10, 1024), "fc.bias": torch.zeros(10)}
    return {
        "plain": state,
        "several GPUs": {f"module.{name}": value for name, value in state.items()},
        "model": {"model": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        "state_dict": {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        "lightning": {"state_dict": {f"model.{name}": value for name, value in state.items()} | head},
        "compiled": {f"_orig_mod.{name}": value for name, value in state.items()},
        "teacher": {"student": {f"module.backbone.{name}": value for name, value in other.items()},
                    "teacher": {f"backbone.{name}": value for name, value in state.items()} | head},
        "ten classes": ten,
        "no head": {name: value for name, value in state.items() if not name.startswith("fc.")},
        "all of it": {"model": {"teacher": {f"module.{name}": value for name, value in ten.items()}}},
    }  # fmt: skip


def test_checkpoints_of_other_projects(file: Path, tmp_path: Path) -> None:
    images = drawn_images(2, 40, 40)
    right = Torchvision(SMALL, str(file)).embed(images)
    for name, content in wrapped(torch.load(file, weights_only=True)).items():
        torch.save(content, tmp_path / "weights.pth")
        assert torch.equal(Torchvision(SMALL, str(tmp_path / "weights.pth")).embed(images), right), name


def test_checkpoints_of_dinov2(dino: Path, tmp_path: Path) -> None:
    images = drawn_images(2, 64, 64)
    right = DINOv2("vit_dwarf_patch14_dinov2", str(dino), size=56).embed(images)
    state = torch.load(dino, weights_only=True)
    training = {"teacher": {f"backbone.{name}": value for name, value in state.items()} | {
        f"dino_head.mlp.{i}.weight": torch.ones(3, 3) for i in range(3)}}  # fmt: skip
    for content in (training, {"model": state}, {f"module.{name}": value for name, value in state.items()}):
        torch.save(content, tmp_path / "w.pth")
        assert torch.equal(DINOv2("vit_dwarf_patch14_dinov2", str(tmp_path / "w.pth"), size=56).embed(images), right)


def test_a_checkpoint_without_the_middle_is_refused(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    gone = next(name for name in state if name.startswith("stage3"))
    torch.save({"model": {name: value for name, value in state.items() if name != gone}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"Missing key.*{gone}"):
        Torchvision(SMALL, str(tmp_path / "w.pth"))
