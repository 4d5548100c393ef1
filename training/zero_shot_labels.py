"""Label images zero-shot: a factor is defined by two texts, and CLIP's predictions are the labels.

An image x matches the first of two texts a, b with probability σ(s (cos(x, a) − cos(x, b))), with the learnt scale s of
the model: CLIP's zero-shot classification (Radford et al. 2021, https://arxiv.org/abs/2103.00020). It is .5 for an
image that is equally similar to both.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional

from datamodules.factors import FactorTable, ImageData, check_training
from datamodules.features import extract
from models import UserError
from models.interfaces import FeatureEncoder, TextEncoder
from models.labels import Factor
from models.text_length import cut_note
from training.build import build, device_of
from training.factor_classifier import reading_quality
from training.run_folder import Run
from training.settings import Settings

__all__ = ["Reading", "VALUES", "agreement", "checked", "labelled", "prompt_encoder", "read", "with_factors"]

SCALE = 100.0  # s for models without a learnt one; CLIP's training bounds s by it
VALUES = ("no", "yes")  # yes is the first text


class Reading(NamedTuple):
    """The cosines of each row with two texts, and the probability of the first against the second."""

    texts: tuple[str, str]
    cosines: Float[Tensor, "n 2"]
    probability: Float[Tensor, " n"]

    @property
    def score(self) -> Float[Tensor, " n"]:
        return self.cosines[:, 0] - self.cosines[:, 1]

    def labels(self, confidence: float = 0.5) -> Float[Tensor, " n"]:
        """Return 1 for the first text, 0 for the second, NaN if neither has that probability."""
        sure = torch.maximum(self.probability, 1 - self.probability) >= confidence
        return torch.where(sure, (self.score > 0).float(), torch.nan)


def checked(prompts: Any, confidence: float = 0.5) -> dict[str, tuple[str, str]]:
    """Check the prompts and return the pair of texts of each factor.

    Raises:
        UserError: a factor does not have two different texts, or the confidence is not in [.5, 1).
    """
    example = 'prompts={glasses:["a face with glasses","a face without glasses"]}'
    if not isinstance(prompts, Mapping) or not prompts:
        raise UserError(f"Expected {example}, got {prompts!r}: give two texts for each factor.")
    found: dict[str, tuple[str, str]] = {}
    for name, texts in prompts.items():
        pair = (
            [] if isinstance(texts, str) or not isinstance(texts, Sequence) else [str(text).strip() for text in texts]
        )
        if len(pair) != 2 or not all(pair) or pair[0] == pair[1]:
            raise UserError(f"Expected two different texts for {name}, as in {example}, got {texts!r}.")
        found[str(name)] = (pair[0], pair[1])
    if not 0.5 <= confidence < 1:
        raise UserError(f"Expected a confidence from .5, which labels every image, to below 1, got {confidence}.")
    return found


def prompt_encoder(settings: Settings) -> Any:
    """Build the model that `prompt_encoder=` names, by default CLIP's published ViT-B/32.

    Raises:
        UserError: it cannot be built, or does not embed both images and texts.
    """
    try:
        encoder = build(settings or {"_target_": "models.clip.CLIP"})
    except UserError as error:
        raise UserError(re.sub(r"\bencoder([.=])", r"prompt_encoder\1", str(error))) from error
    if not isinstance(encoder, FeatureEncoder) or not isinstance(encoder, TextEncoder):
        raise UserError(
            f"Expected prompt_encoder= to read both images and texts, got {encoder.identity['name']}: set "
            "prompt_encoder._target_=models.clip.CLIP."
        )
    return encoder


def scale_of(encoder: Any) -> float:
    learnt = getattr(getattr(encoder, "network", None), "logit_scale", None)
    return SCALE if learnt is None else float(learnt.detach().exp())


@torch.inference_mode()
def read(encoder: Any, features: Float[Tensor, "n d"], prompts: Mapping[str, tuple[str, str]]) -> dict[str, Reading]:
    """Compute the cosines and probabilities of image embeddings for the two texts of each factor.

    Raises:
        UserError: texts and images are embedded in different spaces.
    """
    found, scale = {}, scale_of(encoder)
    for name, texts in prompts.items():
        if note := cut_note(encoder, texts):
            print(f"{name}: {note}")
        directions = encoder.embed_text(list(texts)).float().cpu()
        if directions.shape[1] != features.shape[1]:
            raise UserError(
                f"Expected images and texts in one space, got {features.shape[1]} and {directions.shape[1]} features: "
                "leave the encoder's layer at null."
            )
        # In parts, because the rows may be a memory map.
        parts = [functional.normalize(part.float(), dim=1) for part in features.split(100_000)]
        cosines = torch.cat([part @ functional.normalize(directions, dim=1).T for part in parts])
        found[name] = Reading(texts, cosines, torch.sigmoid(scale * (cosines[:, 0] - cosines[:, 1])))
    return found


def two_sided(table: FactorTable, name: str) -> Float[Tensor, " n"] | None:
    """Return existing labels as 0 and 1, for a continuous factor by its median; None if there are no such labels."""
    if name not in [factor.name for factor in table.factors]:
        return None
    column = table.index(name)
    values = table.values[:, column]
    if table.factors[column].kind == "continuous":
        above = (values > values[~values.isnan()].median()).float()
        return torch.where(values.isnan(), values, above)
    return values if table.factors[column].kind == "binary" else None


def agreement(reading: Reading, table: FactorTable, name: str, confidence: float = 0.5) -> dict[str, float]:
    """Compare zero-shot labels with existing ones; the result is empty if there are none.

    `accuracy` and `balanced_accuracy` are of the rows with both labels. `auc`, of all rows with an existing label, is
    independent of the decision boundary. A continuous factor is compared by the side of its median. `labelled` is the
    share of rows with a zero-shot label.
    """
    known, labels = two_sided(table, name), reading.labels(confidence)
    if known is None or not len(known):
        return {}
    found = {"labelled": 1 - labels.isnan().float().mean().item()}
    both = ~known.isnan() & ~labels.isnan()
    if both.any():
        column = FactorTable((Factor(name, "binary", VALUES),), known[both][:, None])
        found |= reading_quality(labels[both][:, None], column, torch.zeros(1))[name]
    there = ~known.isnan()
    if len(known[there].unique()) == 2:
        from sklearn.metrics import roc_auc_score

        found["auc"] = float(roc_auc_score(known[there].numpy(), reading.score[there].numpy()))
    return found


def with_factors(data: ImageData, readings: Mapping[str, Reading], confidence: float, source: str) -> ImageData:
    """Add each reading to the data as a binary factor; it replaces a factor with the same name."""
    factors, columns = list(data.factors.factors), list(data.factors.values.unbind(1))
    known = data.factors.confidence
    sure = list((torch.ones_like(data.factors.values) if known is None else known).unbind(1))
    own = {factor.name: factor.kind for factor in factors}
    for name, reading in readings.items():
        described = f'zero-shot: "{reading.texts[0]}" against "{reading.texts[1]}", {source}'
        factor, labels = Factor(name, "binary", VALUES, described), reading.labels(confidence)
        if name in own:
            place = data.factors.index(name)
            factors[place], columns[place], sure[place] = factor, labels, torch.ones_like(labels)
        else:
            factors.append(factor)
            columns.append(labels)
            sure.append(torch.ones_like(labels))
    drawn = all(own.get(name) == "binary" for name in readings)  # scenes can be drawn with 0 and with 1
    table = FactorTable(
        tuple(factors), torch.stack(columns, dim=1), None if known is None else torch.stack(sure, dim=1)
    )
    return replace(data, factors=table, counterfactual=data.counterfactual if drawn else None)


def note_of(name: str, reading: Reading, confidence: float, quality: Mapping[str, float], source: str) -> str:
    labels = reading.labels(confidence)
    share, first, second = (labels == 1).float().mean().item(), *reading.texts
    unknown = int(labels.isnan().sum())
    note = f'{name}: labelled zero-shot ({source}), {share:.1%} "{first}" rather than "{second}"'
    note += f", {unknown} of {len(labels)} without a label" if unknown else ""
    if "balanced_accuracy" in quality:
        note += f"; balanced accuracy against the labels at hand {quality['balanced_accuracy']:.3f}"
    return note + "."


def source_of(encoder: Any) -> str:
    known = encoder.identity
    words = [known.get("name"), known.get("architecture"), known.get("weights"), known.get("sha256")]
    shown = [str(word) for word in dict.fromkeys(words) if word]
    return " ".join(word[:12] if len(word) == 64 else word for word in shown)  # a SHA-256 is shortened


def labelled(config: Settings, data: Any, run: Run) -> Any:
    """Add the factors that `prompts=` defines, labelled by `prompt_encoder=`; without prompts the data stay unchanged.

    If there are labels of the same name, `prompts/<factor>/{accuracy,balanced_accuracy,auc,labelled}` are added to the
    run's metrics.

    Raises:
        UserError: the data are no images, the model is not iin, or all images get the same label.
    """
    if not config.get("prompts"):
        return data
    prompts = checked(OmegaConf.to_container(config.prompts), config.prompt_confidence)
    if not isinstance(data, ImageData) or config.model.name != "iin":
        got = f"model={config.model.name}" if isinstance(data, ImageData) else f"data of {data.name}"
        raise UserError(f"Expected images and model=iin for prompts=, got {got}: leave prompts= out.")
    device, confidence = device_of(config), config.prompt_confidence
    encoder = prompt_encoder(config.prompt_encoder).to(device)
    readings = read(encoder, extract(data, encoder, config.cache_dir, device).values, prompts)
    source, notes = source_of(encoder), []
    for name, reading in readings.items():
        quality = agreement(reading, data.factors, name, confidence)
        run.update({f"prompts/{name}/{key}": value for key, value in quality.items()})
        notes.append(note_of(name, reading, confidence, quality, source))
    found = with_factors(data, readings, confidence, source)
    try:
        check_training(found.factors, found.split)
    except UserError as error:
        sides = " ".join(notes)
        raise UserError(f"{str(error).split(':')[0]}: choose other texts for prompts=, or labels. {sides}") from error
    return replace(found, notes=[*data.notes, *notes])
