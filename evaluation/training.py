"""The stages of a run: train what is missing, load what is there.

Every stage writes `checkpoints/<stage>.partial.ckpt` while it trains and `checkpoints/<stage>.ckpt` when it is done,
so that a killed run goes on where it was.
"""

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save
from torch import Tensor

from datamodules.factors import TRAIN, FactorTable, ImageData, fingerprint
from datamodules.features import (
    Batches,
    FeatureData,
    FeatureEncoder,
    ImageEncoder,
    Latents,
    as_read,
    check_images,
    encode,
    extract,
)
from datamodules.images import with_progress
from datamodules.pairs import EditBatches, PairBatches, PairSampler, discretise
from datamodules.people import training_halves
from datamodules.texts import TextData, TextEncoder, extract_texts
from evaluation.files import read_json, write_file, write_json
from evaluation.fitting import STEPS_PER_EPOCH, Pictures, finish, fit, plain, stage_steps
from evaluation.judge import train_judge
from evaluation.record import Run, device_of, made
from evaluation.run import load_module
from evaluation.settings import Settings
from models import UserError
from models.diffusion_flow import DiffusionFlow
from models.guide import Guide
from models.iin import IIN, block_sizes_from_pairs
from models.precision import fast_precision, half_precision
from models.spatial_guide import SpatialGuide
from models.vae import VAE

__all__ = [
    "features_of", "frozen_encoder", "image_encoder", "latents_of", "reader_rows", "text_encoder", "train_guide",
    "train_iin", "train_vae",
]  # fmt: skip

READER = 1_000_003  # from the seed of the judge to that of the reader
READER_WIDTH = 16  # the judge has 24
EDITED = 256  # rows that the guide edits at a time
EDITS = "edits.partial.safetensors"  # its edits, until the flow has learnt them
VAE_VERSION = 2  # of its network and training: an earlier one is not taken for the same


def train_vae(config: Settings, data: ImageData, run: Run) -> VAE:
    """The VAE of this data: this run's, the newest matching one of other runs, or one trained now.

    `vae.json` beside the checkpoint has the key of the data and settings that the whole of it was trained with.
    """
    own = run.path / "checkpoints" / "vae.ckpt"
    note, partial = own.with_suffix(".json"), own.with_name("vae.partial.ckpt")
    if own.exists():
        return load_module(VAE, own)
    settings = plain(OmegaConf.to_container(config.vae, resolve=True))
    trained = [dict(config.trainer.vae), config.trainer.scale, config.trainer.bf16]
    trained += [dict(config.trainer.final_decoder)] if settings.get("final_width") else []
    key = fingerprint("vae", VAE_VERSION, data.fingerprint, sorted(settings.items()), config.seed, *trained)
    if source := elsewhere(config, key) if config.encoder.checkpoint or not partial.exists() else None:
        print(f"Using the VAE {source}.")
        vae = load_module(VAE, source)
        if source_key := key_of(source):
            write_json(note, {"key": source_key})
    else:
        if not partial.exists():
            write_json(note, {"key": key})
        elif key_of(own) != key:  # begun with other settings: the key of neither
            note.unlink(missing_ok=True)
        vae = trained_vae(config, settings, data, run)
    finish(vae, run, "vae")
    return vae.eval().requires_grad_(False)


def trained_vae(config: Settings, settings: dict[str, Any], data: ImageData, run: Run) -> VAE:
    steps, size = stage_steps(config, config.trainer.vae.steps), config.trainer.vae.batch_size
    with run.stage("vae") as stage:
        if settings["flip"] is None:
            settings["flip"] = data.counterfactual is None  # drawn data needs no mirroring
        pl.seed_everything(config.seed, verbose=False)
        vae: VAE = made(settings)
        images = as_read(data.images, vae.size)
        bf16 = config.trainer.bf16
        bf16 = fast_precision(device_of(config)) == torch.bfloat16 if bf16 is None else bf16
        shown = images[data.rows(TRAIN)[:16]]
        batches = Batches({"images": images}, size, config.seed, data.rows(TRAIN), STEPS_PER_EPOCH)
        pictures = Pictures(lambda module: [("reconstructions", reconstruction_grid(module, shown))])
        precision = "bf16-mixed" if bf16 else "32-true"
        stage.items = size * fit(vae, batches, run, "vae", config, steps, precision, (pictures,))
    if vae.final is not None:
        train_final_decoder(config, vae, images, data, run, precision)
    return vae


def train_final_decoder(config: Settings, vae: VAE, images: Tensor, data: ImageData, run: Run, precision: str) -> None:
    """The VAE's sharper decoder, at the posterior means of the training images."""
    assert vae.final is not None
    steps, size = stage_steps(config, config.trainer.final_decoder.steps), config.trainer.final_decoder.batch_size
    rows, device = data.rows(TRAIN), device_of(config)
    with run.stage("final_decoder") as stage:
        pl.seed_everything(config.seed + 3, verbose=False)
        vae.to(device).eval()
        with torch.no_grad():
            means = torch.cat([vae.encode(images[part].to(device))[0].cpu() for part in rows.split(512)])
        tensors = {"images": images[rows], "mean": means}
        batches = Batches(tensors, size, config.seed + 3, torch.arange(len(rows)), STEPS_PER_EPOCH)
        vae.final.train()
        stage.items = size * fit(vae.final, batches, run, "final_decoder", config, steps, precision)
    (run.path / "checkpoints" / "final_decoder.partial.ckpt").unlink(missing_ok=True)


def elsewhere(config: Settings, key: str) -> Path | None:
    """The checkpoint that encoder.checkpoint= names, or the newest finished VAE of the same data and settings."""
    if config.encoder.checkpoint:
        source = Path(config.encoder.checkpoint).expanduser()
        if not source.is_file():
            raise UserError(f"Expected a VAE checkpoint at encoder.checkpoint={source}, got no such file.")
        return source
    finished = Path(config.runs_dir).glob("*/*/*/checkpoints/vae.ckpt")
    newest = sorted(finished, key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in newest if key_of(path) == key), None)


def key_of(checkpoint: Path) -> str | None:
    """What a VAE was trained with, None where that is not known."""
    try:
        return read_json(checkpoint.with_suffix(".json")).get("key")
    except UserError:
        return None


def frozen_encoder(config: Settings) -> ImageEncoder | FeatureEncoder | None:
    """The pretrained encoder of a model that edits images, before their data are read; None where it is trained here.

    Raises:
        UserError: weights that are missing or another network's; a size that it does not take.
    """
    edits = config.model.name == "iin" and config.encoder.get("name") != "vae"
    return made(config.encoder) if edits else None


def image_encoder(
    config: Settings, data: ImageData, run: Run, frozen: ImageEncoder | FeatureEncoder | None = None
) -> ImageEncoder | FeatureEncoder:
    """The frozen encoder that the configuration names, trained first where it is Facet's own VAE.

    Raises:
        UserError: latents that no network of these settings can be made for, before any time is spent.
    """
    if config.encoder.get("name") == "vae":
        if not config.encoder.checkpoint:
            check_iin(config, data.factors, made(config.vae, flip=False).latent_shape)
        encoder: Any = train_vae(config, data, run)
    else:
        encoder = made(config.encoder) if frozen is None else frozen
    if isinstance(encoder, ImageEncoder):
        check_iin(config, data.factors, encoder.latent_shape)
    return encoder.to(device_of(config))


def latents_of(
    config: Settings, data: ImageData | FeatureData, run: Run, frozen: ImageEncoder | FeatureEncoder | None = None
) -> tuple[ImageEncoder, Latents]:
    """The encoder of a model that edits images, `frozen` or trained here, and its latents of all of them.

    Raises:
        UserError: data without images, or with other images than the encoder's; an encoder without a decoder.
    """
    if not isinstance(data, ImageData):
        raise UserError(f"Expected images for model={config.model.name}, got vectors: choose other data=.")
    if config.encoder.get("name") == "vae" and not config.encoder.checkpoint:
        check_images(data, config.vae.size)  # before it is trained
    encoder = image_encoder(config, data, run, frozen)
    if not isinstance(encoder, ImageEncoder):
        raise UserError(
            f"Expected an encoder whose latents can be decoded for model={config.model.name}, got "
            f"{encoder.identity['name']}: set encoder=vae, taesd or sd_vae."
        )
    device = device_of(config)
    run.manifest(data, encoder.identity, config.seed, str(device))
    with run.stage("encode", len(data.images)):
        return encoder, encode(data, encoder, config.cache_dir, device)


def features_of(config: Settings, data: ImageData | TextData | FeatureData, run: Run) -> FeatureData:
    """What is clustered or reduced: the features of a frozen encoder, or the vectors themselves.

    Raises:
        UserError: an encoder that does not read this data.
    """
    device = device_of(config)
    if isinstance(data, FeatureData):
        run.manifest(data, None, config.seed, str(device))
        return data
    encoder: Any = text_encoder(config) if isinstance(data, TextData) else image_encoder(config, data, run)
    run.manifest(data, encoder.identity, config.seed, str(device))
    extracted: Any = extract_texts if isinstance(data, TextData) else extract
    with run.stage("encode", len(data.ids)):
        return extracted(data, encoder, config.cache_dir, device)


def text_encoder(config: Settings) -> Any:
    """The frozen encoder of texts that the configuration names.

    Raises:
        UserError: it reads none, or would be trained first.
    """
    if config.encoder.get("name") == "vae":
        raise UserError("Expected a frozen encoder of texts, got vae: set encoder=sentence or encoder=clip.")
    encoder = made(config.encoder).to(device_of(config))
    if not isinstance(encoder, TextEncoder):
        raise UserError(f"Expected an encoder of texts, got {encoder.identity['name']}: set encoder=sentence or clip.")
    return encoder


def reconstruction_grid(vae: VAE, images: Tensor) -> Tensor:
    """Images above their reconstructions by the decoder in training, (3, height, width) in [0, 1]."""
    images = images.to(vae.device)
    shown = torch.cat([images.float() / 255, vae.draft(vae.encode(images)[0])])
    return grid(shown, len(images))


def grid(images: Tensor, columns: int) -> Tensor:
    from torchvision.utils import make_grid

    return make_grid(images.clamp(0, 1).cpu(), columns, padding=1)


def check_iin(config: Settings, labels: FactorTable, shape: tuple[int, ...]) -> None:
    """Refuse settings that no flow or guide can be made with for such latents, before any time is spent on them."""
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
    made_iin(config, settings, labels, shape)
    if faithful and factors:
        made_guide(config, labels, shape)


def made_iin(config: Settings, settings: dict[str, Any], labels: FactorTable, shape: tuple[int, ...]) -> IIN:
    """The invertible network for latents of this shape, untrained."""
    diffusion = None
    if len(shape) == 3:
        stored = plain(dict(config.spatial_guide))
        diffusion = {name: value for name, value in stored.items() if not name.startswith("_")}
    return made(
        OmegaConf.create({"iin": settings}).iin, features=math.prod(shape), factors=factor_lists(labels),
        shape=list(shape), diffusion=diffusion,
    )  # fmt: skip


def made_guide(config: Settings, labels: FactorTable, shape: tuple[int, ...], **steps: int) -> Guide | SpatialGuide:
    """The guide that latents of this shape need."""
    if len(shape) == 3:
        return made(config.spatial_guide, features=math.prod(shape), factors=factor_lists(labels), shape=list(shape))
    return made(config.guide, features=math.prod(shape), factors=factor_lists(labels), **steps)


def check_latents(found: int, expected: int, file: Path) -> None:
    """Refuse a stage's checkpoint that is of other latents than the encoder's."""
    if found != expected:
        raise UserError(
            f"Expected a checkpoint for {expected} latents, the encoder's, got one for {found} at {file}: remove it to "
            "train its stage again, or choose another run_dir=."
        )


def train_guide(
    config: Settings, data: ImageData, latents: Latents, encoder: ImageEncoder, run: Run
) -> Guide | SpatialGuide:
    """The guide of this run, see `models/guide.py`, and for latents with places `models/spatial_guide.py`."""
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
            # Of other people, seed and width than the judges, which measure and must not have been trained for.
            reader = train_judge(
                data, config.seed + READER, width=READER_WIDTH, device=device_of(config), cache_dir=config.cache_dir,
                scale=config.trainer.scale, rows=rows,
            )  # fmt: skip
        read = reader.logits
    pl.seed_everything(config.seed + 1, verbose=False)
    parts = {part: stage_steps(config, config.guide[part]) for part in ("fit_steps", "align_steps")}
    guide = made_guide(config, labels, encoder.latent_shape, **parts)
    with run.stage("guide") as stage:
        guide.start(latents.mean.cpu(), latents.logvar.cpu(), labels.values)
        if isinstance(guide, SpatialGuide):
            steps, size = (
                stage_steps(config, config.trainer.spatial_guide.steps),
                config.trainer.spatial_guide.batch_size,
            )
            batches: Any = labelled_batches(latents, labels, torch.arange(len(labels.values)), size, config.seed + 1)
        else:
            guide.decode, guide.read = decoder(encoder), read
            steps, size = sum(parts.values()), config.trainer.guide.batch_size
            batches = PairBatches(
                pair_sampler(config, labels), latents, labels, size, config.seed + 1, STEPS_PER_EPOCH, partners=False
            )
        stage.items = size * fit(guide, batches, run, "guide", config, steps, clip=1.0 if spatial else 1000.0)
    finish(guide, run, "guide")
    return guide.to(device_of(config)).eval().requires_grad_(False)


def reader_rows(data: ImageData) -> Tensor:
    """Which of the training rows, by number, a reader learns from; see `training_halves`."""
    return torch.isin(data.rows(TRAIN), training_halves(data)[0]).nonzero().flatten()


def labelled_batches(latents: Latents, labels: FactorTable, rows: Tensor, size: int, seed: int) -> Batches:
    """Batches of these rows of latents, their labels and how sure these are."""
    sure = torch.ones_like(labels.values) if labels.confidence is None else labels.confidence.nan_to_num(1.0)
    device = latents.mean.device
    tensors = {"mean": latents.mean, "labels": labels.values.to(device), "sure": sure.to(device)}
    return Batches(tensors, size, seed, rows, STEPS_PER_EPOCH)


def guided_edits(config: Settings, latents: Latents, labels: FactorTable, guide: SpatialGuide, run: Run) -> EditBatches:
    """Where the guide's edits of training rows end, every factor of each once to another value: computed once.

    An edit takes some twenty passes of the guide's network, so no step of the flow's training waits for one. A run that
    goes on finds them in its folder.
    """
    device, count = latents.mean.device, len(labels.factors)
    rows = rows_to_edit(labels, config.spatial_guide_edits, config.seed + 2)
    file = run.path / "checkpoints" / EDITS
    if file.exists():
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
        write_file(file, save({"after": after.cpu(), "targets": targets.cpu()}))
    size = config.trainer.spatial_iin.batch_size
    return EditBatches(latents, labels, rows, after, targets, size, config.seed + 2, STEPS_PER_EPOCH)


def rows_to_edit(labels: FactorTable, most: int, seed: int) -> Tensor:
    """Different rows at random, in which rare values are more frequent than in the data: they are to be edited, too."""
    weights = torch.zeros(len(labels.values), dtype=torch.float64)
    for column in discretise(labels).unbind(1):
        known = column >= 0
        counts = torch.bincount(column[known]).clamp(min=1)
        weights[known] += 1 / counts[column[known]]
    weights += 1e-3 * weights.mean()  # a row without any label can be drawn
    return torch.multinomial(weights, min(most, len(weights)), generator=torch.Generator().manual_seed(seed))


def decoder(encoder: ImageEncoder) -> Any:
    """The frozen decoder, the fast one of two, under bfloat16 where that is faster; gradients flow through it."""
    fast = encoder.draft if isinstance(encoder, VAE) else encoder.decode

    def decode(latents: Tensor) -> Tensor:
        with half_precision(latents.device):
            return fast(latents).float()

    return decode


def factor_lists(labels: FactorTable) -> list[list[Any]]:
    return [[f.name, f.kind, list(f.values)] for f in labels.factors]


def pair_sampler(config: Settings, labels: FactorTable) -> PairSampler | None:
    return PairSampler(labels, config.pairs.decorrelate, config.pairs.bins) if labels.factors else None


def train_iin(config: Settings, latents: Latents, labels: FactorTable, guide: Guide | SpatialGuide | None, run: Run,
              encoder: ImageEncoder, reader: Tensor | None = None) -> IIN:  # fmt: skip
    """The invertible network of this run, trained on latents and labels of the training split.

    What a diffusion flow reads is learnt from the rows `reader` of these alone: the judges see other people.
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
    iin = made_iin(config, settings, labels, encoder.latent_shape)
    reading = isinstance(iin.flow, DiffusionFlow)  # all that there is to train
    length = config.trainer.reading if reading else config.trainer.spatial_iin if iin.spatial else config.trainer.iin
    steps, size = stage_steps(config, length.steps), length.batch_size
    edits: Any = None
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
        batches: Any = edits or PairBatches(sampler, latents, labels, size, config.seed + 2, STEPS_PER_EPOCH, partners)
        shown = latents.mean[:: max(1, len(latents.mean) // 8)][:8]
        pictures = Pictures(lambda module: edit_grids(module, shown, latents, labels, encoder))
        clip = 200.0 if iin.objective == "faithful" else None
        stage.items = size * fit(iin, batches, run, "iin", config, steps, callbacks=(pictures,), clip=clip)
        iin.to(device_of(config)).eval()
        iin.calibrate(latents.mean, labels.values.to(latents.mean.device))
    finish(iin, run, "iin", "last")
    (done.parent / EDITS).unlink(missing_ok=True)
    return iin.to(device_of(config))


def edit_grids(
    iin: IIN, shown: Tensor, latents: Latents, labels: FactorTable, encoder: ImageEncoder
) -> list[tuple[str, Tensor]]:
    """Per factor: a few training images above their edits to the first and the last value."""
    if not isinstance(iin.flow, DiffusionFlow):  # whose edits need no such thing, and which would take a minute
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
