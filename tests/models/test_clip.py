"""CLIP against open_clip's own pipeline on PIL images: small random models, saved to disk and loaded back."""

import inspect
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import huggingface_hub
import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from models import UserError
from models.backbones import Preprocessing
from models.clip import CLIP
from models.text_length import cut_note

CONFIGS = Path(__file__).parents[2] / "configs" / "encoder"
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
VIT = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
RESNET = VIT | {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
HALVES: dict[str, Any] = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
OPENAI: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
TEXTS = ["a face with glasses", "a face without them, in the open, on a day with much sun", "7"]


def random_model(name: str, quick_gelu: bool = False) -> Any:
    """A model whose weights and batch statistics are large enough that a wrong activation or mode shows."""
    torch.manual_seed(1)
    model = open_clip.create_model(name, force_quick_gelu=quick_gelu).eval()
    for parameter in model.parameters():
        parameter.data.mul_(1.4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(cast(Tensor, module.running_mean), -0.1, 0.1)
            nn.init.uniform_(cast(Tensor, module.running_var), 0.5, 2)
    return model


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small-vit and small-resnet known to open_clip, their weights in files, and the ViT in a folder, too."""
    disk = tmp_path_factory.mktemp("clip")
    for name, config in {"small-vit": VIT, "small-resnet": RESNET}.items():
        (disk / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(disk / f"{name}.json")
        torch.save(random_model(name).state_dict(), disk / f"{name}.pt")
    state = random_model("small-vit").state_dict()
    save_file(state, disk / "small-vit.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, disk / "training.pt")
    write_folder(disk / "folder", VIT, state, HALVES)
    return disk


def write_folder(folder: Path, model: dict[str, Any], state: dict[str, Tensor], preprocess: dict[str, Any]) -> None:
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch, disk: Path) -> dict[str, dict[str, Any]]:
    """Published weights of small-vit, as in open_clip's table, and in the hub's cache."""
    published: dict[str, dict[str, Any]] = {
        "quick": OPENAI | {"hf_hub": "some/quick/", "quick_gelu": True},
        "slow": OPENAI | {"hf_hub": "some/slow/pytorch_model.bin"},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small-vit", published)
    cached = {("some/quick", "open_clip_model.safetensors"), ("some/slow", "pytorch_model.bin")}
    place = str(disk / "small-vit.safetensors")
    found: Callable[[str, str], str | None] = lambda repo, file: place if (repo, file) in cached else None  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", found)
    return published


def drawn_images(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    phase = torch.rand(count, channels, 1, 1) * 6
    waves = 127 + 90 * torch.sin(x * 2 + phase) * torch.cos(y * 3 - phase)
    return (waves + 8 * torch.randn(count, channels, height, width)).clamp(0, 255).to(torch.uint8)


def as_pil(images: Tensor, transform: Any) -> Tensor:
    grey = images.shape[1] == 1
    arrays = [image[0].numpy() if grey else image.permute(1, 2, 0).numpy() for image in images]
    return torch.stack([transform(Image.fromarray(array)) for array in arrays])


def expected_features(model: Any, preprocess: dict[str, Any], images: Tensor) -> Tensor:
    """What open_clip's users compute, image by image."""
    config = open_clip.transform.PreprocessCfg(size=model.visual.image_size, **preprocess)
    with torch.no_grad():
        return model.encode_image(
            as_pil(images, open_clip.transform.image_transform_v2(config, is_train=False)), normalize=True
        )


@pytest.mark.parametrize("height, width, channels", [(32, 32, 3), (28, 28, 1), (64, 64, 3), (178, 218, 3)])
@pytest.mark.parametrize("name", ["small-vit", "small-resnet"])
def test_a_file_gives_what_open_clip_gives(disk: Path, name: str, height: int, width: int, channels: int) -> None:
    encoder = CLIP(name, str(disk / f"{name}.pt"), quick_gelu=False)
    images = drawn_images(3, height, width, channels)
    features = encoder.embed(images)
    assert features.shape == (3, 24) and encoder.features == 24 and features.dtype == torch.float32
    torch.testing.assert_close(features, expected_features(random_model(name), OPENAI, images), rtol=0, atol=5e-3)


def test_a_folder_says_its_model_and_its_preprocessing(disk: Path) -> None:
    encoder = CLIP(weights=str(disk / "folder"))
    images = drawn_images(3, 40, 56)
    features = encoder.embed(images)
    model = random_model("small-vit")
    torch.testing.assert_close(features, expected_features(model, HALVES, images), rtol=0, atol=5e-3)
    assert (features - expected_features(model, OPENAI, images)).abs().max() > 0.02
    assert encoder.identity["weights"] == "folder" and encoder.identity["quick_gelu"] is False
    assert (
        encoder.identity["preprocessing/mode"] == "squash" and encoder.identity["preprocessing/mean"] == "0.5 0.5 0.5"
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("height, width", [(20, 20), (101, 101), (45, 32), (40, 57)])
def test_preprocessing_is_open_clips(height: int, width: int, mode: str, interpolation: str) -> None:
    prepare = Preprocessing(32, 32, mode, interpolation, OPENAI["mean"], OPENAI["std"])
    config = open_clip.transform.PreprocessCfg(32, interpolation=interpolation, resize_mode=mode)
    images = drawn_images(2, height, width)
    difference = prepare(images) - as_pil(images, open_clip.transform.image_transform_v2(config, is_train=False))
    steps = difference.abs() * torch.tensor(OPENAI["std"]).reshape(3, 1, 1) * 255
    assert steps.max() < 2.01 and steps.mean() < 0.1


def test_texts(disk: Path) -> None:
    model, tokenizer = random_model("small-vit"), open_clip.get_tokenizer("small-vit")
    with torch.no_grad():
        expected = model.encode_text(tokenizer(TEXTS), normalize=True)
    for encoder in (CLIP("small-vit", str(disk / "small-vit.pt"), False), CLIP(weights=str(disk / "folder"))):
        torch.testing.assert_close(encoder.embed_text(TEXTS), expected, rtol=0, atol=1e-5)
    many = encoder.embed_text(TEXTS * 90)  # more than one batch
    torch.testing.assert_close(many, expected.repeat(90, 1), rtol=0, atol=1e-5)
    plain = CLIP("small-vit", str(disk / "small-vit.pt"), False, normalize=False).embed_text(TEXTS)
    assert (plain.norm(dim=1) - 1).abs().min() > 0.01
    torch.testing.assert_close(nn.functional.normalize(plain), expected, rtol=0, atol=1e-5)


def test_the_folders_own_tokenizer_is_used(disk: Path, tmp_path: Path) -> None:
    config = VIT | {"text_cfg": TEXT | {"context_length": 5}}
    state = random_model("small-vit").state_dict()
    state["positional_embedding"] = state["positional_embedding"][:5].clone()
    write_folder(tmp_path / "short", config, state, OPENAI)
    encoder = CLIP(weights=str(tmp_path / "short"))
    assert encoder.tokenizer(TEXTS).shape == (3, 5)
    assert encoder.embed_text(TEXTS).shape == (3, 24)


def test_a_tokenizer_that_is_not_there(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other-vit.json").write_text(json.dumps(VIT | {"text_cfg": TEXT | {"hf_tokenizer_name": "no/where"}}))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    open_clip.add_model_config(tmp_path / "other-vit.json")
    encoder = CLIP("other-vit", "random")
    with pytest.raises(UserError, match=r"The tokenizer of other-vit cannot be loaded .*: install the transformers"):
        encoder.embed_text(TEXTS)
    assert "encoder=clip: downloading the text tower's hf_tokenizer_name no/where to " in capsys.readouterr().out


def test_quick_gelu_changes_the_features_and_is_recorded(disk: Path) -> None:
    images = drawn_images(3, 32, 32)
    for quick_gelu in (False, True):
        encoder = CLIP("small-vit", str(disk / "small-vit.pt"), quick_gelu)
        features = encoder.embed(images)
        same, other = (
            expected_features(random_model("small-vit", q), OPENAI, images) for q in (quick_gelu, not quick_gelu)
        )
        torch.testing.assert_close(features, same, rtol=0, atol=1e-4)
        assert (features - other).abs().max() > 1e-3
        assert encoder.identity["quick_gelu"] is quick_gelu


def test_quick_gelu_of_a_file_has_to_be_stated(disk: Path) -> None:
    with pytest.raises(UserError, match="encoder.quick_gelu=true or false, as the file small-vit.pt does not say"):
        CLIP("small-vit", str(disk / "small-vit.pt"))


def test_quick_gelu_of_a_tag_is_known(disk: Path, tags: dict[str, dict[str, Any]]) -> None:
    images = drawn_images(2, 32, 32)
    for tag, quick_gelu in (("quick", True), ("slow", False)):
        encoder = CLIP("small-vit", tag)
        assert encoder.identity["quick_gelu"] is quick_gelu and encoder.identity["weights"] == tag
        assert encoder.identity == CLIP("small-vit", tag, quick_gelu).identity
        expected = expected_features(random_model("small-vit", quick_gelu), OPENAI, images)
        torch.testing.assert_close(encoder.embed(images), expected, rtol=0, atol=1e-4)
        uses = "quick-GELU" if quick_gelu else "GELU"
        with pytest.raises(
            UserError, match=f"{str(not quick_gelu).lower()} contradicts {tag} of .*, which uses {uses}:"
        ):
            CLIP("small-vit", tag, not quick_gelu)


def test_quick_gelu_of_a_folder_or_an_architecture_is_known(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="encoder.quick_gelu=true contradicts folder of local-dir:.*, which uses GELU"):
        CLIP(weights=str(disk / "folder"), quick_gelu=True)
    write_folder(tmp_path / "quick", VIT | {"quick_gelu": True}, random_model("small-vit").state_dict(), OPENAI)
    assert CLIP(weights=str(tmp_path / "quick")).identity["quick_gelu"] is True
    with pytest.raises(UserError, match="false contradicts x.pt of ViT-B-32-quickgelu, which uses quick-GELU"):
        (tmp_path / "x.pt").touch()
        CLIP("ViT-B/32-quickgelu", str(tmp_path / "x.pt"), quick_gelu=False)


def test_a_file_takes_the_preprocessing_of_its_architectures_published_weights(
    disk: Path, tags: dict[str, dict[str, Any]]
) -> None:
    for config in tags.values():
        config |= HALVES
    encoder = CLIP("small-vit", str(disk / "small-vit.pt"), False)
    images = drawn_images(3, 40, 56)
    expected = expected_features(random_model("small-vit"), HALVES, images)
    torch.testing.assert_close(encoder.embed(images), expected, rtol=0, atol=5e-3)


def test_published_weights_that_differ_say_nothing_of_a_file(disk: Path, tags: dict[str, dict[str, Any]]) -> None:
    tags["quick"] |= {"mean": (0.5, 0.5, 0.5), "resize_mode": "squash"}
    file = str(disk / "small-vit.pt")
    with pytest.raises(
        UserError, match=r"Expected encoder.mean for .* small-vit differ in it .*\(0.5, 0.5, 0.5\) of qu"
    ):
        CLIP("small-vit", file, False)
    with pytest.raises(UserError, match="Expected encoder.resize for .*squash of quick; shortest of slow"):
        CLIP("small-vit", file, False, mean=OPENAI["mean"])
    encoder = CLIP("small-vit", file, False, mean=OPENAI["mean"], resize="shortest")
    assert CLIP("small-vit", "slow").identity == encoder.identity | {
        "weights": "slow",
        "sha256": CLIP("small-vit", "slow").identity["sha256"],
    }


def test_stated_preprocessing_wins_and_a_contradiction_is_said(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CLIP(weights=str(disk / "folder"), mean=[0.5, 0.5, 0.5], interpolation="bilinear")
    assert capsys.readouterr().out == ""
    encoder = CLIP(weights=str(disk / "folder"), mean=[0.5, 0.5, 0.25], resize="shortest")
    said = capsys.readouterr().out
    assert "mean is (0.5, 0.5, 0.25) as set; folder was trained with (0.5, 0.5, 0.5)." in said
    assert "resize_mode is shortest as set; folder was trained with squash." in said
    images = drawn_images(2, 40, 56)
    stated = HALVES | {"mean": (0.5, 0.5, 0.25), "resize_mode": "shortest"}
    expected = expected_features(random_model("small-vit"), stated, images)
    torch.testing.assert_close(encoder.embed(images), expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    "name, layer",
    [
        ("small-vit", "visual.transformer.resblocks.1"),
        ("small-vit", "visual.transformer.resblocks.1.attn"),
        ("small-vit", "visual.ln_post"),
        ("small-resnet", "visual.layer2"),
        ("small-resnet", "visual.layer3.0.bn1"),
        ("small-resnet", "visual.attnpool"),
    ],
)
def test_layers_by_name(disk: Path, name: str, layer: str) -> None:
    images = drawn_images(3, 32, 32)
    encoder = CLIP(name, str(disk / f"{name}.pt"), False, layer, normalize=False)
    model = random_model(name)
    caught: dict[str, Tensor] = {}
    model.get_submodule(layer).register_forward_hook(
        lambda _, __, output: caught.update(x=(output[0] if isinstance(output, tuple) else output).clone())
    )
    with torch.no_grad():
        model.encode_image(encoder.prepare(images))
    expected = caught["x"]
    if expected.ndim > 2:  # tokens or maps
        expected = expected.mean(1) if expected.ndim == 3 else expected.mean((2, 3))
    features = encoder.embed(images)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert encoder.features == expected.shape[1] and encoder.identity["layer"] == layer
    unit = CLIP(name, str(disk / f"{name}.pt"), False, layer).embed(images)
    torch.testing.assert_close(unit, nn.functional.normalize(features))
    assert encoder.embed_text(TEXTS).shape == (3, 24)


@pytest.mark.parametrize(
    "layer, hint",
    [
        ("visual.transformer.resblocks.7", r"\. Did you mean visual.transformer.resblocks.2 or "),
        ("resblocks.1", r"\. Did you mean visual.transformer.resblocks.1"),
        ("transformer.resblocks.1", r"\. Did you mean visual.transformer.resblocks.1 or visual"),  # of the text tower
        ("?", r"\. There are \d+, visual to visual.ln_post"),
    ],
)
def test_no_such_layer(disk: Path, layer: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"encoder.layer to be a layer of the network, got .*{hint}"):
        CLIP("small-vit", "random", layer=layer)


def test_random_weights_say_so_repeat_and_leave_no_trace(disk: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = CLIP("small-vit", "random").identity
    CLIP("small-vit", str(disk / "small-vit.pt"), False)
    torch.testing.assert_close(torch.rand(3), expected)
    assert first == CLIP("small-vit", "random").identity
    assert first["weights"] == "random weights" and first["quick_gelu"] is False
    assert CLIP("small-vit", "random", True).identity["quick_gelu"] is True


def test_identity_follows_weights_and_preprocessing(disk: Path, tmp_path: Path) -> None:
    state = torch.load(disk / "small-vit.pt", weights_only=True)
    state["logit_scale"] += 1
    torch.save(state, tmp_path / "small-vit.pt")
    file = str(disk / "small-vit.pt")
    first = CLIP("small-vit", file, False).identity
    assert first["name"] == "clip" and first["architecture"] == "small-vit" and first["weights"] == "small-vit.pt"
    changes: dict[str, CLIP] = {
        "sha256": CLIP("small-vit", str(tmp_path / "small-vit.pt"), False),
        "weights": CLIP("small-vit", str(disk / "small-vit.safetensors"), False),
        "quick_gelu": CLIP("small-vit", file, True),
        "layer": CLIP("small-vit", file, False, "visual.ln_post"),
        "normalize": CLIP("small-vit", file, False, normalize=False),
        "preprocessing/mean": CLIP("small-vit", file, False, mean=(0.1, 0.2, 0.3)),
        "preprocessing/std": CLIP("small-vit", file, False, std=(0.1, 0.2, 0.3)),
        "preprocessing/interpolation": CLIP("small-vit", file, False, interpolation="bilinear"),
        "preprocessing/mode": CLIP("small-vit", file, False, resize="squash"),
    }
    for key, encoder in changes.items():
        assert {name for name in first if encoder.identity[name] != first[name]} == {key}
    assert all(isinstance(value, str | int | float | bool) for value in first.values())
    assert CLIP("small-vit", str(disk / "training.pt"), False).identity["sha256"] == first["sha256"]


def test_frozen_and_in_evaluation_mode(disk: Path) -> None:
    encoder = CLIP("small-resnet", str(disk / "small-resnet.pt"), False)
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    images = drawn_images(4, 32, 32)
    assert not encoder.embed(images).requires_grad and not encoder.embed_text(TEXTS).requires_grad
    torch.testing.assert_close(encoder.embed(images)[:1], encoder.embed(images[:1]), rtol=1e-4, atol=1e-5)


def test_logging_is_left_alone(disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    CLIP("small-vit", "random").embed_text(TEXTS)
    assert logging.getLogger().handlers == []
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def broken(disk: Path, tmp_path: Path) -> Path:
    state = torch.load(disk / "small-vit.pt", weights_only=True)
    torch.save({"vision_model.embeddings.class_embedding": torch.zeros(8)}, tmp_path / "transformers.bin")
    torch.save({name: value for name, value in state.items() if name != "ln_final.weight"}, tmp_path / "lacking.pt")
    torch.save(state | {"more": torch.zeros(1)}, tmp_path / "more.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.safetensors").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pt")
    return tmp_path


@pytest.mark.parametrize(
    "name, line",
    [
        ("transformers.bin", "these are the tensors of the transformers library, give the model's weights for open_cl"),
        ("lacking.pt", 'Missing key.* "ln_final.weight".*: give weights of this architecture, or set encoder.archit'),
        ("more.pt", 'Unexpected key.* "more"'),
        ("tensor.pt", "give weights of this architecture"),
        ("text.pt", "give weights of this architecture"),
        ("empty.safetensors", "give weights of this architecture"),
        ("program.pt", "this is a program, give the model's weights as safetensors, or a tag"),
    ],
)
def test_weights_that_do_not_load(broken: Path, name: str, line: str) -> None:
    with pytest.raises(UserError, match=f"Expected small-vit to load with {name}, got .*{line}") as caught:
        CLIP("small-vit", str(broken / name), quick_gelu=False)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model(disk: Path) -> None:
    with pytest.raises(UserError, match="Expected small-resnet to load with small-vit.pt, got") as caught:
        CLIP("small-resnet", str(disk / "small-vit.pt"), quick_gelu=False)
    assert "\n" not in str(caught.value)


def test_broken_folders(tmp_path: Path) -> None:
    config = tmp_path / "open_clip_config.json"
    scalar = json.dumps({"model_cfg": VIT, "preprocess_cfg": OPENAI | {"std": 0.5}})
    for content in (None, "{", "[]", '{"model_cfg": {}}', '{"model_cfg": {}, "preprocess_cfg": null}', scalar):
        if content is not None:
            config.write_text(content)
        with pytest.raises(
            UserError, match="Expected .*open_clip_config.json with model_cfg and preprocess_cfg"
        ) as caught:
            CLIP(weights=str(tmp_path))
        assert "\n" not in str(caught.value)
    config.write_text(json.dumps({"model_cfg": VIT, "preprocess_cfg": OPENAI}))
    with pytest.raises(UserError, match="got none: put open_clip_model.safetensors or open_clip_pytorch_model"):
        CLIP(weights=str(tmp_path))
    (tmp_path / "open_clip_model.safetensors").touch()
    for model in (VIT, {}):
        config.write_text(json.dumps({"model_cfg": model, "preprocess_cfg": OPENAI}))
        with pytest.raises(UserError, match=f"local-dir:{tmp_path} to load with {tmp_path.name}, got"):
            CLIP(weights=str(tmp_path))


def test_a_folder_with_a_way_to_resize_that_is_not_known(disk: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "odd", VIT, random_model("small-vit").state_dict(), OPENAI | {"resize_mode": "tile"})
    with pytest.raises(UserError, match="the resize_mode of odd to be one of shortest, longest, squash, got tile"):
        CLIP(weights=str(tmp_path / "odd"))


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"architecture": "ViT-B-31"}, "one of open_clip's, got ViT-B-31. Did you mean ViT-B-32"),
        ({"weights": "openia"}, r"a tag of ViT-B-32 \(openai, .*\), a file, a folder with .*, or random, got openia"),
        ({"weights": None}, "or random, got None"),
        ({"architecture": "small-vit", "weights": "openai"}, r"a tag of small-vit \(it has none\)"),
        ({"weights": "random", "mean": [0.5]}, r"encoder.mean to be three numbers, of R, G and B, got \[0.5\]"),
        ({"weights": "random", "resize": "longer"}, "encoder.resize to be one of null, shortest, longest, squash"),
        (
            {"weights": "random", "interpolation": "nearest"},
            "encoder.interpolation to be one of null, bicubic, bilinear",
        ),
    ],
)
def test_settings_that_it_does_not_know(disk: Path, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        CLIP(**settings)


def test_images_that_are_not_square(disk: Path, tmp_path: Path) -> None:
    config = VIT | {"vision_cfg": VISION | {"image_size": [32, 16]}}
    (tmp_path / "wide-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "wide-vit.json")
    with pytest.raises(UserError, match="Expected a model that reads square images, got 32x16 of random weights"):
        CLIP("wide-vit", "random")


def test_a_tag_without_a_network(tags: dict[str, dict[str, Any]]) -> None:
    tags["absent"] = OPENAI | {"hf_hub": "no/where/"}
    with pytest.raises(
        UserError, match=r"absent of small-vit are not in .*failed \(.*: put open_clip_config.json and "
    ):
        CLIP("small-vit", "absent")


@pytest.mark.parametrize("place, name", [("", "open_clip_model.safetensors"), ("weights.bin", "weights.bin")])
def test_a_download_is_announced(disk: Path, tags: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str], place: str, name: str) -> None:  # fmt: skip
    class HfApi:
        def model_info(self, repository: str, files_metadata: bool) -> SimpleNamespace:
            sizes = {name: 605_200_000, "open_clip_pytorch_model.bin": 10**9, "README.md": 3}
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in sizes.items()])

    def hf_hub_download(repository: str, file: str) -> str:
        assert (repository, file) == ("some/model", name)
        assert f"downloading {name} of some/model (605 MB) to " in capsys.readouterr().out
        return str(disk / "small-vit.safetensors")

    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    tags["new"] = OPENAI | {"hf_hub": f"some/model/{place}"}
    assert CLIP("small-vit", "new").identity["weights"] == "new"


def test_configuration_shows_every_argument() -> None:
    config = OmegaConf.load(CONFIGS / "clip.yaml").encoder
    assert config.pop("_target_") == "models.clip.CLIP"
    arguments = inspect.signature(CLIP).parameters
    assert OmegaConf.to_container(config) == {name: argument.default for name, argument in arguments.items()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_on_a_gpu(disk: Path) -> None:
    encoder = CLIP("small-vit", str(disk / "small-vit.pt"), False)
    images = drawn_images(4, 48, 48)
    expected, texts = encoder.embed(images), encoder.embed_text(TEXTS)
    encoder.cuda()
    for here, there in ((expected, encoder.embed(images.cuda())), (texts, encoder.embed_text(TEXTS))):
        assert there.dtype == torch.float32 and not torch.equal(there.cpu(), here)
        assert (here * there.cpu()).sum(1).min() > 0.99


def test_texts_beyond_77_tokens_are_counted(disk: Path) -> None:
    clip = CLIP("small-vit", "random")
    assert clip.token_limit == 77
    start = "a " * 80
    assert cut_note(clip, [start + "cat", start + "dog", "short", "b " * 75]) == (
        "2 of 4 texts are longer than the 77 tokens that the encoder reads: they are cut. 2 different texts are the "
        "same up to there, so their embeddings are equal."
    )
    assert cut_note(clip, ["b " * 75]) is None and cut_note(clip, ["b " * 76]) is not None
    rows = clip.embed_text([start + "cat", start + "dog"])
    assert torch.equal(rows[0], rows[1])
