"""Every stage of every model, killed or stopped by a signal at random steps, ends equal to the bit.

The suite kills each stage once; `make kills` ends it at seven random steps, by SIGKILL, SIGTERM and SIGINT.
A kill is an error that no code handles, after which a new process's state is simulated: another global random state
and modules built anew. Nothing but the files of the run and the cache is left, as after a real one.
"""

import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from torch import Tensor

from datamodules.factors import FactorTable, ImageData
from datamodules.features import FeatureData, Latents
from datamodules.splits import hash_split
from evaluation.concepts import pipeline as concepts
from models.labels import Factor
from tests.evaluation.linear_world import World, linear_world
from tests.training.test_word_embedding import reviews
from training import clusterers, iin, reducers, vae
from training.build import build
from training.callbacks import Watch
from training.factor_classifier import train_judge
from training.iin import train_guide, train_iin
from training.interrupt import Interrupted, interruptible
from training.oracle import train_oracle
from training.partials import Epochs
from training.run_folder import Run
from training.word_embedding import learn_embedding

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # the stages share it
CONFIGS = Path(__file__).parents[2] / "configs"
EPOCH = 6  # steps, after which a checkpoint is written
STEPS = 16
CPU = torch.device("cpu")
KILLS = [signal.SIGKILL]
if os.environ.get("FACET_KILLS"):  # make kills
    KILLS = 3 * [signal.SIGKILL] + 3 * [signal.SIGTERM] + [signal.SIGINT]


class Killed(BaseException):
    """No code of the project handles it."""


def settings(folder: Path, *overrides: str) -> Any:
    import train  # registers the resolver  # noqa: F401

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", ["trainer.accelerator=cpu", f"run_dir={folder / 'run'}", f"runs_dir={folder / 'runs'}",
                                 f"cache_dir={folder / 'cache'}", *overrides])  # fmt: skip


def rows(n: int = 90, d: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator) + 3 * (torch.arange(n) % 3)[:, None]


@cache
def world() -> World:
    return linear_world(200)


@cache
def pictures() -> ImageData:
    """Small coloured images whose colour is labelled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80.0).remainder(2)[:, None]
    images = torch.randint(0, 100, (80, 3, 16, 16), generator=generator) + (100 * labels[:, :, None, None]).long()
    split, table = (
        hash_split([str(i) for i in range(80)]),
        FactorTable((Factor("red", "binary", ("no", "yes")),), labels),
    )
    return ImageData("pictures", images.to(torch.uint8), [str(i) for i in range(80)], table, split, "pictures")


def train_autoencoder(folder: Path) -> None:
    config = settings(folder, "vae.size=16", "vae.latent=4", "vae.width=4", "vae.final_width=4",
                      "trainer.vae.batch_size=8", f"trainer.vae.steps={STEPS}",
                      f"trainer.final_decoder.steps={STEPS}")  # fmt: skip
    vae.train_vae(config, pictures(), Run(folder / "run", config))


def train_flow(folder: Path) -> None:
    config = settings(folder, "iin.blocks=2", "iin.width=8", "guide.nuisance=2", "guide.width=8", "guide.fit_steps=10",
                      "guide.align_steps=10", "guide.align_batch=4", f"trainer.iin.steps={STEPS}",
                      "trainer.guide.batch_size=16", "trainer.iin.batch_size=16")  # fmt: skip
    run, latents = Run(folder / "run", config), Latents(world().latents, torch.full_like(world().latents, -4.0))
    guide = train_guide(config, replace(world().data, split=torch.zeros(200, dtype=torch.uint8)), latents,
                        world().encoder, run)  # fmt: skip
    train_iin(config, latents, world().data.factors, guide, run, world().encoder)


class Spatial:
    """An encoder of spatial latents, of which the stages need the shape alone."""

    size, latent_shape = 16, (2, 4, 4)
    identity: dict[str, str | int | float | bool] = {"name": "spatial"}

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        return latents.reshape(-1, 2, 4, 4)[:, [0, 1, 0]].sigmoid()


def train_spatial_flow(folder: Path, coupling: str) -> None:
    config = settings(folder, f"iin.coupling={coupling}", "iin.blocks=2", "iin.width=8", "spatial_guide.width=8",
                      "spatial_guide_edits=16", "spatial_guide.solver_steps=2",
                      *(f"trainer.{stage}.steps={STEPS}" for stage in ("spatial_guide", "reading", "spatial_iin")),
                      *(f"trainer.{stage}.batch_size=8" for stage in ("spatial_guide", "reading", "spatial_iin"))
                      )  # fmt: skip
    mean = torch.randn(80, 32, generator=torch.Generator().manual_seed(0)) + pictures().factors.values
    run, latents = Run(folder / "run", config), Latents(mean, torch.full_like(mean, -4.0))
    data, encoder = replace(pictures(), split=torch.zeros(80, dtype=torch.uint8)), Spatial()
    guide = train_guide(config, data, latents, encoder, run)
    train_iin(config, latents, data.factors, guide, run, encoder)


def train_clusterings(folder: Path) -> None:
    stages = [f"trainer.{stage}.steps={STEPS}" for stage in ("autoencoder", "dec", "turtle", "temi")]
    config = settings(folder, "model=dec", "autoencoder.hidden=[8]", "autoencoder.code=3", "temi.hidden=8", *stages,
                      "trainer.autoencoder.layer_epochs=10", "trainer.dec.interval=4", "dec.tolerance=0.0",
                      "temi.neighbours=5", "idec.tolerance=0.0",
                      *(f"trainer.{stage}.batch_size=16" for stage in ("autoencoder", "dec", "temi"))
                      )  # fmt: skip
    fits = clusterers.ClustererFits(config, rows(), torch.arange(90), 3, 0, Run(folder / "run", config), CPU)
    for method in ("dec", "idec", "turtle", "temi"):
        fits(method)


def train_reductions(folder: Path) -> None:
    stages = ("mds", "autoencoder", "matryoshka")
    config = settings(folder, "model=mds", "mds.hidden=[8]", "autoencoder.hidden=[8]", "mds.quadruplets=50",
                      *(f"trainer.{stage}.{key}" for stage in stages for key in (f"steps={STEPS}", "batch_size=16"))
                      )  # fmt: skip
    fits = reducers.ReducerFits(config, rows(), None, None, [2, 4], Run(folder / "run", config), CPU)
    for method in ("isometric", "isotonic", "matryoshka", "autoencoder"):
        fits(method, 2)


def train_concepts(folder: Path) -> None:
    config = settings(folder, "model=sae", "sae.expansion=4", "sae.active=2", "sae.dead_after=60",
                      f"trainer.sae.steps={STEPS}", "trainer.sae.batch_size=16")  # fmt: skip
    table, split = FactorTable((), torch.zeros(90, 0)), torch.zeros(90, dtype=torch.uint8)
    data = FeatureData("rows", rows(), [str(i) for i in range(90)], table, split, "rows")
    run = Run(folder / "run", config)
    concepts.learn_concepts(config, data, run, CPU)


def train_words(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    config = settings(folder, "model=embedding", f"data.path={reviews(folder, 60)}", "data.labels=sentiment",
                      "words=50", "length=10", "trainer.embedding.batch_size=8",
                      "trainer.embedding.epochs=3")  # fmt: skip
    learn_embedding(config, build(config.data), Run(folder / "run", config), CPU)


def train_classifier(folder: Path) -> None:
    train_judge(pictures(), epochs=3, width=4, batch=12, cache_dir=folder / "cache")


def train_pairs(folder: Path) -> None:
    known = world()
    train_oracle(known.data, known.encoder, known.latents, torch.arange(200), epochs=3, batch=64, width=8,
                 cache_dir=folder / "cache")  # fmt: skip


TRAININGS: dict[Callable[[Path], None], tuple[str, ...]] = {
    train_autoencoder: ("vae", "final_decoder"),
    train_flow: ("guide", "iin"),
    lambda folder: train_spatial_flow(folder, "diffusion"): ("guide", "iin"),
    lambda folder: train_spatial_flow(folder, "glow"): ("iin",),
    train_clusterings: ("layer_1", "layer_2", "autoencoder", "dec", "idec", "turtle", "temi"),
    train_reductions: ("isometric_2", "isotonic_2", "matryoshka", "autoencoder_2"),
    train_concepts: ("sae",),
    train_words: ("embedding",),
    train_classifier: ("classifier",),
    train_pairs: ("oracle",),
}  # fmt: skip
CASES = [(training, number, kill) for training in range(len(TRAININGS)) for number, kill in enumerate(KILLS)]


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vae, iin, clusterers, reducers, concepts):
        monkeypatch.setattr(module, "STEPS_PER_EPOCH", EPOCH)


def results(folder: Path) -> dict[str, Tensor]:
    """All weights that a training has stored."""
    found: dict[str, Tensor] = {}
    for file in sorted((folder / "run").glob("checkpoints/*.ckpt")):
        state = torch.load(file, weights_only=True)["state_dict"]
        found |= {f"{file.name} {name}": tensor for name, tensor in state.items()}
    for file in sorted((folder / "cache").glob("*/*.safetensors")):
        found |= {f"{file.parent.name} {name}": tensor for name, tensor in load_file(file).items()}
    assert not list(folder.rglob("*partial*")) and not list(folder.rglob("*.tmp"))
    return found


@cache
def whole(number: int, folder: Path) -> dict[str, Tensor]:
    """The results of a training that nothing interrupts."""
    list(TRAININGS)[number](folder)
    return results(folder)


def end_at(step: int, kill: signal.Signals, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """End the process after this step of the stage, once."""
    left = [step]

    def ended() -> None:
        left[0] -= 1
        if left[0] == 0 and kill == signal.SIGKILL:
            raise Killed
        if left[0] == 0:
            os.kill(os.getpid(), kill)

    after, before = Watch.on_train_batch_end, Epochs.steps

    def watched(watch: Watch, *arguments: Any) -> None:
        after(watch, *arguments)
        if watch.stage == stage:
            ended()

    def stepped(epochs: Epochs) -> Any:
        for places in before(epochs):
            yield places
            if stage in epochs.parts:
                ended()

    monkeypatch.setattr(Watch, "on_train_batch_end", watched)
    monkeypatch.setattr(Epochs, "steps", stepped)


@pytest.mark.parametrize(("training", "number", "kill"), CASES)
def test_stages_that_are_ended_at_any_step_go_on_to_the_same_bits(
    training: int, number: int, kill: signal.Signals, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    expected = whole(training, tmp_path_factory.getbasetemp() / f"whole_{training}")
    train, stages = list(TRAININGS.items())[training]
    steps = random.Random(number)
    for stage in stages:
        step = steps.randint(1, 12)
        with monkeypatch.context() as patched:
            end_at(step, kill, patched, stage)
            with pytest.raises((Killed, Interrupted)) as ended, interruptible():
                train(tmp_path)
        error: Any = ended.value
        assert isinstance(error, Killed) or error.code == 128 + kill, stage
        torch.manual_seed(12345 + step)  # a new process does not know the random state of the former
    train(tmp_path)
    found = results(tmp_path)
    assert found.keys() == expected.keys()
    different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    assert not different, f"{stages} ended by {kill.name}"
