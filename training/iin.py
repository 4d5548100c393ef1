"""Train the guide and the invertible network of a run, or load them if the run has trained them already."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save
from torch import Tensor

from datamodules.batches import Batches, ValidationBatches, row_batches
from datamodules.checksums import check_recorded, forget, write_recorded
from datamodules.factors import FactorTable, ImageData
from datamodules.features import Latents
from datamodules.pairs import PairSampler, discretise, edit_batches, pair_batches
from datamodules.people import training_halves
from datamodules.progress import with_progress
from datamodules.splits import TRAIN, VALIDATION
from models import UserError
from models.diffusion_flow import DiffusionFlow
from models.guide import Guide
from models.iin import IIN
from models.iin_blocks import block_sizes_from_pairs
from models.interfaces import ImageEncoder
from models.labels import dependent_factor
from models.precision import half_precision
from models.spatial_guide import SpatialGuide
from models.vae import VAE
from training.build import build, device_of
from training.callbacks import Pictures
from training.checkpoints import finish, load_module, plain
from training.factor_classifier import train_judge
from training.fit import STEPS_PER_EPOCH, fit, stage_steps
from training.run_folder import Run
from training.settings import Settings
from training.vae import grid

__all__ = ["CHANGEABLE", "check_iin", "train_guide", "train_iin", "train_interpretation"]

Validation: TypeAlias = Callable[[], ValidationBatches] | None
# The settings that a run may continue with changed until the checkpoint is there.
CHANGEABLE = {
    "guide": (
        "guide.learning_rate",
        "trainer.guide",
        "spatial_guide.learning_rate",
        "trainer.spatial_guide",
        "trainer.scale",
    ),  # fmt: skip
    "last": ("iin.learning_rate", "trainer.iin", "trainer.reading", "trainer.spatial_iin", "trainer.scale"),
}
READER = 1_000_003  # offset of the reader's seed from the judge's
READER_WIDTH = 16  # the judge's is 24
EDITED = 256  # rows that the guide edits at a time
EDITS = "edits.partial.safetensors"  # the guide's edits, kept until the flow is trained


def factor_lists(labels: FactorTable) -> list[list[Any]]:
    return [[f.name, f.kind, list(f.values)] for f in labels.factors]


def build_iin(config: Settings, settings: dict[str, Any], labels: FactorTable, shape: tuple[int, ...]) -> IIN:
    """Build the invertible network for latents of this shape, untrained."""
    diffusion = None
    if len(shape) == 3:
        stored = plain(dict(config.spatial_guide))
        diffusion = {name: value for name, value in stored.items() if not name.startswith("_")}
    return build(
        OmegaConf.create({"iin": settings}).iin, features=math.prod(shape), factors=factor_lists(labels),
        shape=list(shape), diffusion=diffusion,
    )  # fmt: skip


def build_guide(config: Settings, labels: FactorTable, shape: tuple[int, ...], **steps: int) -> Guide | SpatialGuide:
    """Build the guide for latents of this shape: `Guide` for flat ones, `SpatialGuide` for spatial ones."""
    if len(shape) == 3:
        return build(config.spatial_guide, features=math.prod(shape), factors=factor_lists(labels), shape=list(shape))
    return build(config.guide, features=math.prod(shape), factors=factor_lists(labels), **steps)


def check_independent(labels: FactorTable) -> None:
    """Refuse factors that are linear functions of each other: which one an edit should change is not defined.

    Raises:
        UserError: one is; the message names it and those that it follows from.
    """
    found = dependent_factor(labels.factors, labels.values)
    if found is not None:
        raise UserError(
            f"Expected factors that vary separately, got {found[0]}, which follows from {' and '.join(found[1])} in "
            "all training images: leave one out, or give them as one factor with several classes."
        )


def check_iin(config: Settings, labels: FactorTable, shape: tuple[int, ...]) -> None:
    """Check, before any training, that a flow and a guide can be built for such latents."""
    if config.model.name != "iin":
        return
    settings, factors = dict(config.iin), factor_lists(labels)
    faithful = settings["objective"] == "faithful"
    if settings["block_sizes"] == "auto":
        if factors and (faithful or settings["head"] != "pairs"):
            raise UserError(
                "Expected iin.block_sizes=auto only with iin.objective=likelihood iin.head=pairs, got "
                f"iin.objective={settings['objective']} iin.head={settings['head']}: leave it null."
            )
        settings["block_sizes"] = None
    build_iin(config, settings, labels, shape)
    if faithful and factors:
        check_independent(labels)
        build_guide(config, labels, shape)


def check_latents(found: int, expected: int, file: Path) -> None:
    """Check that a stage's checkpoint has as many latents as the encoder.

    Raises:
        UserError: the numbers differ.
    """
    if found != expected:
        raise UserError(
            f"Expected a checkpoint for {expected} latents, the encoder's, got one for {found} at {file}: remove it to "
            "train its stage again, or choose another run_dir=."
        )


def pair_sampler(config: Settings, labels: FactorTable) -> PairSampler | None:
    return PairSampler(labels, config.pairs.decorrelate, config.pairs.bins) if labels.factors else None


def labelled_batches(latents: Latents, labels: FactorTable, rows: Tensor, size: int, seed: int) -> Batches:
    """Return batches of these rows: latents, labels, and the confidence of the labels."""
    sure = torch.ones_like(labels.values) if labels.confidence is None else labels.confidence.nan_to_num(1.0)
    device = latents.mean.device
    tensors = {"mean": latents.mean, "labels": labels.values.to(device), "sure": sure.to(device)}
    return row_batches(tensors, size, seed, rows, STEPS_PER_EPOCH)


def decoder(encoder: ImageEncoder) -> Any:
    """Return the frozen decoder, the faster one of a VAE's two, in bfloat16 if that is faster; it is differentiable."""
    fast = encoder.draft if isinstance(encoder, VAE) else encoder.decode

    def decode(latents: Tensor) -> Tensor:
        with half_precision(latents.device):
            return fast(latents).float()

    return decode


def train_guide(
    config: Settings, data: ImageData, latents: Latents, encoder: ImageEncoder, run: Run
) -> Guide | SpatialGuide:
    """Train or load the guide of a run: `models/guide.py`, for spatial latents `models/spatial_guide.py`."""
    labels = data.factors[data.rows(TRAIN)]
    done = run.path / "checkpoints" / "guide.ckpt"
    spatial = len(encoder.latent_shape) == 3
    if done.exists():
        guide = load_module(SpatialGuide if spatial else Guide, done)
        check_latents(guide.hparams["features"], latents.mean.shape[1], done)
        return guide.to(device_of(config))
    read = None
    if config.guide.reading_weight and not spatial:
        rows, _ = training_halves(data)
        with run.stage("reader", len(rows)):
            # The reader differs from the judges in people, seed and width: edits are trained on it and scored by them.
            reader = train_judge(
                data, config.seed + READER, width=READER_WIDTH, device=device_of(config), cache_dir=config.cache_dir,
                scale=config.trainer.scale, rows=rows,
            )  # fmt: skip
        read = reader.logits
    pl.seed_everything(config.seed + 1, verbose=False)
    parts = {part: stage_steps(config, config.guide[part]) for part in ("fit_steps", "align_steps")}
    guide = build_guide(config, labels, encoder.latent_shape, **parts)
    with run.stage("guide") as stage:
        guide.start(latents.mean.cpu(), latents.logvar.cpu(), labels.values)
        settings = config.trainer.spatial_guide if spatial else config.trainer.guide
        if isinstance(guide, SpatialGuide):
            steps, size = stage_steps(config, settings.steps), settings.batch_size
            batches = labelled_batches(latents, labels, torch.arange(len(labels.values)), size, config.seed + 1)
        else:
            guide.decode, guide.read = decoder(encoder), read
            steps, size = sum(parts.values()), settings.batch_size
            batches = pair_batches(
                pair_sampler(config, labels), latents, labels, size, config.seed + 1, STEPS_PER_EPOCH, partners=False
            )
        rate = "spatial_guide.learning_rate" if spatial else "guide.learning_rate"
        stage.items = size * fit(guide, batches, run, "guide", config, steps, clip=settings.get("clip"), rate=rate)
    finish(guide, run, "guide")
    return guide.to(device_of(config)).eval().requires_grad_(False)


def rows_to_edit(labels: FactorTable, most: int, seed: int) -> Tensor:
    """Draw rows without replacement, rare values more often than in the data, because they have to be edited, too."""
    weights = torch.zeros(len(labels.values), dtype=torch.float64)
    for column in discretise(labels).unbind(1):
        known = column >= 0
        counts = torch.bincount(column[known]).clamp(min=1)
        weights[known] += 1 / counts[column[known]]
    weights += 1e-3 * weights.mean()  # so that rows without any label can be drawn
    return torch.multinomial(weights, min(most, len(weights)), generator=torch.Generator().manual_seed(seed))


def guided_edits(config: Settings, latents: Latents, labels: FactorTable, guide: SpatialGuide, run: Run) -> Batches:
    """Compute the guide's edits of training rows, each factor of each row once to another value, as batches.

    An edit takes about twenty passes of the guide's network, so all are computed before the flow is trained. They are
    stored in the run folder for a resumed run.
    """
    device, count = latents.mean.device, len(labels.factors)
    rows = rows_to_edit(labels, config.spatial_guide_edits, config.seed + 2)
    file = run.path / "checkpoints" / EDITS
    if file.exists():
        check_recorded(file)
        stored = load_file(file)
        after, targets = stored["after"], stored["targets"]
    else:
        pl.seed_everything(config.seed + 2, verbose=False)
        before = labels.values[rows].to(device)
        factors = [torch.full((len(rows),), i, device=device) for i in range(count)]
        after, ends = torch.stack([guide.labels.change(before, factor) for factor in factors], 1), []
        with run.stage("edits", len(rows) * count):
            parts = list(zip(rows.split(EDITED), before.split(EDITED), after.split(EDITED), strict=True))
            for some, known, wanted in with_progress(parts, len(rows), "Editing latents by the guide", each=EDITED):
                edited = guide.transport(latents.mean[some.to(device)], known, *wanted.unbind(1))
                ends.append(torch.stack(edited, 1).half())
        targets = torch.cat(ends)
        content = save({"after": after.cpu(), "targets": targets.cpu()})
        write_recorded(run.path, f"checkpoints/{EDITS}", content)
    size = config.trainer.spatial_iin.batch_size
    return edit_batches(latents, labels, rows, after, targets, size, config.seed + 2, STEPS_PER_EPOCH)


def edit_grids(
    iin: IIN, shown: Tensor, latents: Latents, labels: FactorTable, encoder: ImageEncoder
) -> list[tuple[str, Tensor]]:
    """Draw, per factor, a few training images above their edits to the first and the last value."""
    if not isinstance(iin.flow, DiffusionFlow):  # a diffusion flow edits without it, and it would take a minute
        iin.calibrate(latents.mean[:4096], labels.values[:4096].to(latents.mean.device))
    grids = []
    for i, factor in enumerate(iin.factors):
        low, high = (
            (0.0, len(factor.values) - 1.0)
            if factor.kind != "continuous"
            else (float(iin.labels.low[i]), float(iin.labels.high[i]))
        )
        edits = [iin.edit(shown, i, shown.new_full((len(shown),), value)) for value in (low, high)]
        grids.append((f"edits/{factor.name}", grid(encoder.decode(torch.cat([shown, *edits])), len(shown))))
    return grids


def reader_rows(data: ImageData) -> Tensor:
    """Return the positions among the training rows of those that a reader is trained on; see `training_halves`."""
    return torch.isin(data.rows(TRAIN), training_halves(data)[0]).nonzero().flatten()


def train_iin(config: Settings, latents: Latents, labels: FactorTable, guide: Guide | SpatialGuide | None, run: Run,
              encoder: ImageEncoder, reader: Tensor | None = None, validation: Validation = None) -> IIN:  # fmt: skip
    """Train the invertible network of a run on latents and labels of the training split, or load it.

    The reading network of a diffusion flow is trained only on the rows `reader` of these, because the judges are
    trained on the other people.
    """
    done = run.path / "checkpoints" / "last.ckpt"
    if done.exists():
        iin = load_module(IIN, done)
        check_latents(iin.flow.features, latents.mean.shape[1], done)
        return iin.to(device_of(config))
    pl.seed_everything(config.seed + 2, verbose=False)
    settings = dict(config.iin)
    sampler = pair_sampler(config, labels)
    if settings["block_sizes"] == "auto" and sampler is not None:
        a, b, factor = sampler.sample(20_000, torch.Generator().manual_seed(config.seed))
        settings["block_sizes"] = block_sizes_from_pairs(latents.mean[a], latents.mean[b], factor, len(labels.factors))
        names = [factor.name for factor in labels.factors]
        print(f"Estimated block sizes: {dict(zip(names, settings['block_sizes'], strict=True))}")
    if not labels.factors:
        settings |= {"objective": "likelihood", "block_sizes": None}
    iin = build_iin(config, settings, labels, encoder.latent_shape)
    reading = isinstance(iin.flow, DiffusionFlow)  # only its reading network is trained
    length = config.trainer.reading if reading else config.trainer.spatial_iin if iin.spatial else config.trainer.iin
    steps, size = stage_steps(config, length.steps), length.batch_size
    edits: Batches | None = None
    if isinstance(guide, SpatialGuide):
        if reading:
            rows = torch.arange(len(labels.values)) if reader is None else reader
            edits = labelled_batches(latents, labels, rows, size, config.seed + 2)
        else:
            edits = guided_edits(config, latents, labels, guide, run)
    pl.seed_everything(config.seed + 2, verbose=False)
    with run.stage("iin") as stage:
        iin.start(latents.mean.cpu(), latents.logvar.cpu(), labels.values)
        if isinstance(iin.flow, DiffusionFlow) and isinstance(guide, SpatialGuide):
            iin.flow.guide.load_state_dict(guide.state_dict())
        iin.transport = guide.transport if isinstance(guide, Guide) else None
        partners = iin.objective == "likelihood" and iin.head == "pairs" and sampler is not None
        batches = edits
        if batches is None:
            batches = pair_batches(sampler, latents, labels, size, config.seed + 2, STEPS_PER_EPOCH, partners)
        shown = latents.mean[:: max(1, len(latents.mean) // 8)][:8]
        pictures = Pictures(lambda module: edit_grids(module, shown, latents, labels, encoder))
        clip = length.get("clip") if iin.objective == "faithful" else None
        stage.items = size * fit(
            iin, batches, run, "iin", config, steps, callbacks=(pictures,), clip=clip, validation=validation
        )
        iin.to(device_of(config)).eval()
        iin.calibrate(latents.mean, labels.values.to(latents.mean.device))
    finish(iin, run, "iin", "last")
    forget(run.path, f"checkpoints/{EDITS}")
    return iin.to(device_of(config))


def train_interpretation(config: Settings, data: ImageData, latents: Latents, encoder: ImageEncoder, run: Run) -> IIN:
    """Train the guide and the invertible network on the latents and labels of the training split."""
    rows = data.rows(TRAIN)
    known, labels = latents.rows(rows.to(device_of(config))), data.factors[rows]
    faithful = config.iin.objective == "faithful" and labels.factors
    diffusion = len(encoder.latent_shape) == 3 and config.iin.coupling in (None, "diffusion")
    reader = reader_rows(data) if diffusion and faithful else None
    guide = train_guide(config, data, known, encoder, run) if faithful else None
    held = {"mean": latents.mean, "labels": data.factors.values}
    validation = partial(ValidationBatches, held, data.rows(VALIDATION), 256) if labels.factors else None
    return train_iin(config, known, labels, guide, run, encoder, reader, validation)
