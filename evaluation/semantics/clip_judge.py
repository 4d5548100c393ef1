"""Judge edits by CLIP, which was not trained on the labels: probabilities of texts before and after an edit."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from datamodules.factors import FactorTable, ImageData
from datamodules.features import extract
from datamodules.splits import TEST, TRAIN
from evaluation.drawing.figures import to_uint8
from evaluation.editing.measure import edit_targets
from evaluation.maps.neighbours import draw_rows
from evaluation.run import LoadedRun
from models import UserError
from models.labels import factor_statistics
from training.zero_shot_labels import Reading, read, with_factors

__all__ = ["judge_edits"]

BATCH = 256


def embedded(encoder: Any, images: Shaped[Tensor, "n 3 size size"], device: torch.device) -> Float[Tensor, "n d"]:
    """Embed decoded images in batches, on the CPU."""
    return torch.cat([encoder.embed(to_uint8(part).to(device)).float().cpu() for part in images.split(BATCH)])


def with_labels(run: LoadedRun, encoder: Any, prompts: Mapping[str, tuple[str, str]]) -> ImageData:
    """Return the run's data with zero-shot labels of the factors that prompts define or that have no labels."""
    own = {factor.name for factor in run.data.factors.factors} - set(run.config.get("prompts") or {})
    by_text = {name: pair for name, pair in prompts.items() if name not in own}
    if not by_text:
        return run.data
    features = extract(run.data, encoder, run.config.cache_dir, run.device).values
    return with_factors(run.data, read(encoder, features, by_text), 0.5, "")


@torch.inference_mode()
def judge_edits(
    run: LoadedRun, encoder: Any, prompts: Mapping[str, tuple[str, str]], most: int = 500, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Compare decoded edits with the unedited reconstructions by CLIP.

    Each factor with prompts is set, on up to `most` test images drawn at random, to the opposite of its label (a
    continuous one to the other side of its median). The table has, per factor, value and text, the mean cosine `before`
    and `after` and their `change`. The metrics are `semantics/<factor>/{before,after,change}`: the mean probability of
    the text of the target value, against the other text.

    Raises:
        UserError: no prompt of a factor that the run can edit; data without test images.
    """
    factors = tuple(run.iin.factors)
    named = [i for i, factor in enumerate(factors) if factor.name in prompts and factor.kind != "categorical"]
    if not named:
        names = ", ".join(factor.name for factor in factors if factor.kind != "categorical") or "none"
        raise UserError(f"Expected prompts= of a factor that the run can set to two sides ({names}), got none of them.")
    rows = run.data.rows(TEST)
    if not len(rows):
        raise UserError("Expected test images to edit, got none: use data with a test split.")
    rows = rows[draw_rows(len(rows), most, seed)]
    data = with_labels(run, encoder, prompts)
    columns = [data.factors.index(factors[i].name) for i in named]
    table = FactorTable(tuple(factors[i] for i in named), data.factors.values[:, columns])
    train = table[data.rows(TRAIN)]
    statistics = factor_statistics(train.values)
    targets = edit_targets(table[rows], train, statistics, torch.Generator().manual_seed(seed))
    latents = run.encode(data.images[rows])
    before = read(encoder, embedded(encoder, run.decode(latents), run.device), prompts)
    found: list[dict[str, Any]] = []
    numbers: dict[str, float] = {}
    for i, target in zip(named, targets.unbind(1), strict=True):
        factor, known = factors[i], (~target.isnan()).nonzero().flatten()
        if not len(known):
            continue
        edited = run.iin.edit(latents[known.to(run.device)], i, target[known].to(run.device), 1.0)
        after = read(encoder, embedded(encoder, run.decode(edited), run.device), prompts)
        high = target[known] > (statistics.median[named.index(i)] if factor.kind == "continuous" else 0.5)
        for word, chosen in ((factor.values[1], high), (factor.values[0], ~high)):
            found += changes(factor.name, word, before, after, known, chosen)
        means = [torch.where(high, p, 1 - p).mean().item()
                 for p in (before[factor.name].probability[known], after[factor.name].probability)]  # fmt: skip
        parts = {"before": means[0], "after": means[1], "change": means[1] - means[0]}
        numbers |= {f"semantics/{factor.name}/{key}": value for key, value in parts.items()}
    return pd.DataFrame(found), numbers


def changes(name: str, word: str, before: Mapping[str, Reading], after: Mapping[str, Reading], rows: Tensor,
            chosen: Tensor) -> list[dict[str, Any]]:  # fmt: skip
    """Tabulate the mean cosine of every text before and after the edits of one factor to one value."""
    if not chosen.any():
        return []
    lines = []
    for prompt, reading in before.items():
        ends = reading.cosines[rows][chosen].mean(0).tolist(), after[prompt].cosines[chosen].mean(0).tolist()
        for text, start, end in zip(reading.texts, *ends, strict=True):
            lines.append({"factor": name, "to": word, "images": int(chosen.sum()), "text": text, "before": start,
                          "after": end, "change": end - start})  # fmt: skip
    return lines
