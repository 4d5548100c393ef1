"""Factors that two texts define: probabilities, labels, agreement, and edits as another model sees them."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from datamodules.factors import FactorTable, ImageData
from evaluation.run import LoadedRun
from evaluation.semantics.clip_judge import judge_edits
from models import UserError
from models.clip import CLIP
from models.labels import Factor
from tests.evaluation.colours import Colours, colour_images
from training.run_folder import Run
from training.zero_shot_labels import agreement, checked, labelled, prompt_encoder, read, with_factors

PROMPTS = {"warm": ("a red thing", "a blue thing")}
HERE = {"_target_": "tests.evaluation.colours.Colours"}


def settings(folder: Path, **changed: Any) -> Any:
    known = {"model": {"name": "iin"}, "prompts": {"warm": list(PROMPTS["warm"])}, "prompt_confidence": 0.5,
             "prompt_encoder": HERE, "cache_dir": str(folder / "cache"), "trainer": {"accelerator": "cpu"}}  # fmt: skip
    return OmegaConf.create(known | changed)


def test_probabilities_by_their_definition() -> None:
    features = torch.tensor([[3.0, 0, 0], [1, 0, 1], [0, 0, 0.5], [0.51, 0, 0.5]])
    reading = read(Colours(), features, PROMPTS)["warm"]
    root = math.sqrt(0.5)
    torch.testing.assert_close(reading.cosines[:3], torch.tensor([[1, 0], [root, root], [0, 1]]))
    between = 0.01 / math.hypot(0.51, 0.5)
    assert reading.probability[3].item() == pytest.approx(1 / (1 + math.exp(-100 * between)), abs=1e-5)
    assert reading.labels().tolist() == [1, 0, 0, 1]
    sure = reading.labels(0.9)
    assert sure[[0, 2]].tolist() == [1, 0] and sure[[1, 3]].isnan().all()


def test_the_models_own_scale() -> None:
    encoder = Colours()
    encoder.network = nn.Module()
    encoder.network.logit_scale = nn.Parameter(torch.tensor(2.0).log())
    reading = read(encoder, torch.tensor([[1.0, 0, 0]]), PROMPTS)["warm"]
    assert reading.probability.item() == pytest.approx(1 / (1 + math.exp(-2)))


def test_agreement_with_labels_at_hand() -> None:
    """Three of four reds and one of two blues are right: accuracy 4/6, balanced (3/4 + 1/2) / 2."""
    features = torch.tensor([[1.0, 0, 0]] * 3 + [[0, 0, 1.0]] + [[1.0, 0, 0]] + [[0, 0, 1.0]] + [[1.0, 0, 0]])
    reading = read(Colours(), features, PROMPTS)["warm"]
    nan = math.nan
    own = FactorTable((Factor("warm", "binary", ("no", "yes")),), torch.tensor([[1.0, 1, 1, 1, 0, 0, nan]]).T)
    found = agreement(reading, own, "warm")
    assert found == pytest.approx({"labelled": 1, "accuracy": 4 / 6, "balanced_accuracy": 0.625, "auc": 0.625})
    assert agreement(reading, own, "cold") == {}
    continuous = FactorTable((Factor("warm", "continuous", ("a", "b")),), torch.tensor([[5.0, 6, 7, 1, 2, 3, nan]]).T)
    assert agreement(reading, continuous, "warm")["accuracy"] == pytest.approx(5 / 6), "above the median of 3"
    classes = FactorTable((Factor("warm", "categorical", ("a", "b", "c")),), torch.zeros(7, 1))
    assert agreement(reading, classes, "warm") == {}


def test_images_are_labelled_and_the_agreement_is_kept(tmp_path: Path) -> None:
    data, truth = colour_images()
    run = Run(tmp_path / "run", settings(tmp_path))
    found = labelled(settings(tmp_path), data, run)
    assert [f.name for f in found.factors.factors] == ["warm", "level"], "in the place of its own labels"
    factor = found.factors.factors[0]
    assert factor.kind == "binary" and factor.values == ("no", "yes")
    assert factor.source == 'zero-shot: "a red thing" against "a blue thing", colours c0105'
    assert torch.equal(found.factors.values[:, 0], truth)
    assert torch.equal(found.factors.values[:, 1], data.factors.values[:, 1])
    expected = {f"prompts/warm/{key}": 1.0 for key in ("accuracy", "balanced_accuracy", "auc", "labelled")}
    assert run.metrics == expected
    (note,) = found.notes
    assert note.startswith('warm: labelled zero-shot (colours c0105), 50.0% "a red thing" rather than "a blue thing"')
    run.manifest(found, None, 0, "cpu")
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    assert told["notes"] == [note] and told["factors"][0]["source"] == factor.source
    assert data.fingerprint == found.fingerprint, "the images are the same, and so are their latents"


def test_a_factor_that_no_label_knows(tmp_path: Path) -> None:
    data, truth = colour_images(known=False)
    run = Run(tmp_path / "run", settings(tmp_path))
    config = settings(tmp_path, prompt_confidence=0.99)
    found = labelled(config, data, run)
    values = found.factors.values[:, 0]
    unsure = values.isnan()
    assert 2 <= unsure.sum() <= 6 and torch.equal(values[~unsure], truth[~unsure])
    assert run.metrics == {} and f"{int(unsure.sum())} of 60 without a label" in found.notes[0]
    assert labelled(settings(tmp_path, prompts=None), data, run) is data


def test_only_what_can_be_drawn_is_drawn() -> None:
    data, _ = colour_images()
    drawn = replace(data, counterfactual=lambda rows, name, values: data.images[rows])
    reading = read(Colours(), Colours().embed(data.images), PROMPTS)["warm"]
    assert with_factors(drawn, {"warm": reading}, 0.5, "").counterfactual is not None
    assert with_factors(drawn, {"red": reading}, 0.5, "").counterfactual is None
    assert with_factors(drawn, {"level": reading}, 0.5, "").counterfactual is None


def test_what_texts_cannot_define(tmp_path: Path) -> None:
    data, _ = colour_images()
    run = Run(tmp_path / "run", settings(tmp_path))
    with pytest.raises(UserError, match="Expected images and model=iin for prompts=, got model=dec"):
        labelled(settings(tmp_path, model={"name": "dec"}), data, run)
    one_side = {"warm": ["red", "green"]}
    only_red = replace(data, images=data.images[-1:].expand(60, 3, 16, 16).contiguous(), fingerprint="red")
    with pytest.raises(UserError, match=r"'warm' to vary .* got only 'yes': choose other texts.*100.0% \"red\""):
        labelled(settings(tmp_path, prompts=one_side), only_red, run)
    for texts in (["red"], "red", ["red", "red"], ["red", " "], ["red", "green", "blue"], None):
        with pytest.raises(UserError, match=f"Expected two different texts for warm, .*got {re.escape(repr(texts))}"):
            checked({"warm": texts})
    with pytest.raises(UserError, match=r"Expected prompts=\{glasses:.*got \['red', 'blue'\]"):
        checked(["red", "blue"])
    with pytest.raises(UserError, match=r"confidence from .5, .* got 0.3"):
        checked(PROMPTS, 0.3)
    with pytest.raises(UserError, match="Expected images and texts in one space, got 4 and 3 features"):
        read(Colours(), torch.rand(2, 4), PROMPTS)
    with pytest.raises(UserError, match="prompt_encoder= to read both images and texts, got pixels"):
        prompt_encoder({"_target_": "models.backbones.Pixels"})
    with pytest.raises(UserError, match="Expected prompt_encoder.weights to be a tag of ViT-B-32 .*, got nowhere"):
        prompt_encoder({"_target_": "models.clip.CLIP", "weights": "nowhere"})


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, as open_clip lays them out."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip") / "tiny"
    folder.mkdir()
    model = {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16,
             "patch_size": 16}, "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2,
             "layers": 1}}  # fmt: skip
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    save_file(open_clip.model.CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_a_clip_from_disk_labels_as_open_clip_classifies(clip_folder: Path, tmp_path: Path) -> None:
    """Softmax over the two texts at the model's own scale is what its users compute."""
    data, _ = colour_images(20)
    wanted = {"_target_": "models.clip.CLIP", "weights": str(clip_folder)}
    encoder = prompt_encoder(wanted)
    assert isinstance(encoder, CLIP)
    images, texts = encoder.embed(data.images), encoder.embed_text(list(PROMPTS["warm"]))
    softmax = (encoder.network.logit_scale.exp() * images @ texts.T).softmax(1)[:, 0].detach()
    reading = read(encoder, images, PROMPTS)["warm"]
    torch.testing.assert_close(reading.probability, softmax)
    assert softmax.std() > 1e-4
    middle = torch.tensor([reading.score.median().item()])
    assert (reading.score > middle).any() and (reading.score <= middle).any()


class Mixer(LoadedRun):
    """A run whose latents are mean R, G, B, and whose editor sets R and B to 0 or 1, or does nothing."""

    def __init__(self, data: ImageData, works: bool, factors: tuple[Factor, ...]) -> None:
        super().__init__(Path(), OmegaConf.create({"cache_dir": mkdtemp()}), {}, torch.device("cpu"))
        self.data, self.works = data, works
        self.iin = SimpleNamespace(factors=factors, edit=self.change)

    def encode(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3)) / 255

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :, None, None].expand(len(latents), 3, 16, 16)

    def change(self, latents: Tensor, factor: int, value: Tensor, strength: float) -> Tensor:
        edited = torch.stack([value, latents[:, 1], 1 - value], 1)
        return edited if self.works and factor == 0 else latents


def test_edits_as_another_model_sees_them() -> None:
    data, _ = colour_images()
    factors = data.factors.factors
    run: Any = Mixer(data, True, factors)
    prompts = {**PROMPTS, "green": ("a green thing", "a thing in red and blue")}
    table, numbers = judge_edits(run, Colours(), prompts)
    assert list(table.columns) == ["factor", "to", "images", "text", "before", "after", "change"]
    assert set(numbers) == {f"semantics/warm/{key}" for key in ("before", "after", "change")}, "green is no factor"
    assert numbers["semantics/warm/before"] < 0.15 and numbers["semantics/warm/after"] > 0.99
    assert numbers["semantics/warm/change"] == pytest.approx(
        numbers["semantics/warm/after"] - numbers["semantics/warm/before"]
    )
    red = table[(table["to"] == "warm") & (table["text"] == "a red thing")].iloc[0]
    rows = [row for row in data.rows(2).tolist() if row < 30]
    assert red["images"] == len(rows)
    vectors = torch.nn.functional.normalize(Colours().embed(data.images[rows]), dim=1)
    assert red["before"] == pytest.approx(vectors[:, 0].mean().item(), abs=1e-5)
    green = (20 / 255) / math.hypot(1, 20 / 255)
    after = table[(table["to"] == "warm") & (table["text"] == "a green thing")]["after"].item()
    assert after == pytest.approx(green, abs=1e-4)
    assert table["change"].to_numpy() == pytest.approx((table["after"] - table["before"]).to_numpy())


def test_an_edit_that_does_nothing_changes_nothing() -> None:
    data, _ = colour_images()
    run: Any = Mixer(data, False, data.factors.factors)
    table, numbers = judge_edits(run, Colours(), {"level": ("a red thing", "a blue thing"), **PROMPTS}, most=10)
    assert (table["change"] == 0).all() and set(table["factor"]) == {"warm", "level"}
    assert numbers["semantics/level/change"] == numbers["semantics/warm/change"] == 0
    assert table.groupby("factor")["images"].max().max() <= 10


def test_edits_that_no_prompt_can_judge() -> None:
    data, _ = colour_images()
    run: Any = Mixer(data, True, data.factors.factors)
    with pytest.raises(UserError, match=r"factor that the run can set to two sides \(warm, level\), got none"):
        judge_edits(run, Colours(), {"green": ("green", "red")})
    run.data = replace(data, split=torch.zeros(60, dtype=torch.uint8))
    with pytest.raises(UserError, match="Expected test images to edit, got none"):
        judge_edits(run, Colours(), PROMPTS)
