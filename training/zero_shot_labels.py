"""Factors that two texts define: what CLIP reads from images by them, as labels to train on.

An image x shows the first of two texts a, b with probability σ(s (cos(x, a) − cos(x, b))), s being the scale that the
model learnt: CLIP's own zero-shot classification (Radford et al. 2021, https://arxiv.org/abs/2103.00020). At .5 lies
the midpoint of the two.
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
from training.build import build, device_of
from training.factor_classifier import reading_quality
from training.run_folder import Run
from training.settings import Settings

__all__ = ["Reading", "VALUES", "agreement", "checked", "labelled", "prompt_encoder", "read", "with_factors"]

SCALE = 100.0  # of cosines, where a model has none of its own; CLIP's are trained up to it
VALUES = ("no", "yes")  # the second text, the first


class Reading(NamedTuple):
    """The cosines of each row with two texts, and the probability of the first against the second."""

    texts: tuple[str, str]
    cosines: Float[Tensor, "n 2"]
    probability: Float[Tensor, " n"]

    @property
    def score(self) -> Float[Tensor, " n"]:
        return self.cosines[:, 0] - self.cosines[:, 1]

    def labels(self, confidence: float = 0.5) -> Float[Tensor, " n"]:
        """1 for the first text, 0 for the second, NaN where neither has that probability."""
        sure = torch.maximum(self.probability, 1 - self.probability) >= confidence
        return torch.where(sure, (self.score > 0).float(), torch.nan)


def checked(prompts: Any, confidence: float = 0.5) -> dict[str, tuple[str, str]]:
    """A pair of texts for each name.

    Raises:
        UserError: no pair of two different texts; a confidence that is no probability of the likelier text.
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
    """The model that `prompt_encoder=` names, CLIP's published ViT-B/32 where nothing is said.

    Raises:
        UserError: it cannot be made, or does not read both images and texts.
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
    """Compare the encoder's embeddings with the texts.

    Raises:
        UserError: texts in another space than the embeddings.
    """
    found, scale = {}, scale_of(encoder)
    for name, texts in prompts.items():
        directions = encoder.embed_text(list(texts)).float().cpu()
        if directions.shape[1] != features.shape[1]:
            raise UserError(
                f"Expected images and texts in one space, got {features.shape[1]} and {directions.shape[1]} features: "
                "leave the encoder's layer at null."
            )
        # In parts, as the rows may lie on disk.
        parts = [functional.normalize(part.float(), dim=1) for part in features.split(100_000)]
        cosines = torch.cat([part @ functional.normalize(directions, dim=1).T for part in parts])
        found[name] = Reading(texts, cosines, torch.sigmoid(scale * (cosines[:, 0] - cosines[:, 1])))
    return found


def two_sided(table: FactorTable, name: str) -> Float[Tensor, " n"] | None:
    """Labels at hand as 0 and 1, a continuous factor's above its median; None where there are none of two sides."""
    if name not in [factor.name for factor in table.factors]:
        return None
    column = table.index(name)
    values = table.values[:, column]
    if table.factors[column].kind == "continuous":
        above = (values > values[~values.isnan()].median()).float()
        return torch.where(values.isnan(), values, above)
    return values if table.factors[column].kind == "binary" else None


def agreement(reading: Reading, table: FactorTable, name: str, confidence: float = 0.5) -> dict[str, float]:
    """Compare zero-shot labels with the known ones; empty where there are none to compare with.

    `accuracy` and `balanced_accuracy` of the rows that have both; `auc`, of all rows with a label at hand, says how
    well the texts order the rows, wherever the boundary between them would have to be. A continuous factor's labels
    are compared by the side of their median. `labelled`: share of rows that got a label.
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
    """The data with each reading as a binary factor, in the place of one of the same name, or behind the others."""
    factors, columns = list(data.factors.factors), list(data.factors.values.unbind(1))
    known = data.factors.confidence
    sure = list((torch.ones_like(data.factors.values) if known is None else known).unbind(1))
    own = {factor.name: factor.kind for factor in factors}
    for name, reading in readings.items():
        told = f'zero-shot: "{reading.texts[0]}" against "{reading.texts[1]}", {source}'
        factor, labels = Factor(name, "binary", VALUES, told), reading.labels(confidence)
        if name in own:
            place = data.factors.index(name)
            factors[place], columns[place], sure[place] = factor, labels, torch.ones_like(labels)
        else:
            factors.append(factor)
            columns.append(labels)
            sure.append(torch.ones_like(labels))
    drawn = all(own.get(name) == "binary" for name in readings)  # what can be drawn at 0 and at 1
    table = FactorTable(
        tuple(factors), torch.stack(columns, dim=1), None if known is None else torch.stack(sure, dim=1)
    )
    return replace(data, factors=table, counterfactual=data.counterfactual if drawn else None)


def told_of(name: str, reading: Reading, confidence: float, quality: Mapping[str, float], source: str) -> str:
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
    return " ".join(word[:12] if len(word) == 64 else word for word in shown)  # a SHA-256 by its beginning


def labelled(config: Settings, data: Any, run: Run) -> Any:
    """The data as it is, or with the factors that `prompts=` defines, labelled by `prompt_encoder=`.

    With labels at hand, `prompts/<factor>/{accuracy,balanced_accuracy,auc,labelled}` go into the run's metrics.

    Raises:
        UserError: data or a model that texts cannot define factors for; texts that put every image on one side.
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
        notes.append(told_of(name, reading, confidence, quality, source))
    found = with_factors(data, readings, confidence, source)
    try:
        check_training(found.factors, found.split)
    except UserError as error:
        sides = " ".join(notes)
        raise UserError(f"{str(error).split(':')[0]}: choose other texts for prompts=, or labels. {sides}") from error
    return replace(found, notes=[*data.notes, *notes])
