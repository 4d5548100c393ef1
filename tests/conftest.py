"""What holds for every test. Imports no module of the project: the shape checks hook into imports only after this."""

import json
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["MPLBACKEND"] = "Agg"
os.environ["FACET_CACHE"] = tempfile.mkdtemp(prefix="facet-cache-")  # no test touches the user's own
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches a network

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # as in the trainings that tests start as processes: their numbers are compared bit by bit


def pytest_sessionfinish() -> None:
    """Remove what the tests have computed."""
    shutil.rmtree(os.environ["FACET_CACHE"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that run whole trainings first, so that no core waits for them at the end."""
    items.sort(key=lambda item: not item.path.name.startswith("test_train"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whichever ran before."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file can grow beyond 10,000 bytes, as on a disk that is full; holds for root and for native code, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its real pipeline, tiny and at random weights."""
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("diffusion")
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    blocks = {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "block_out_channels": (8, 16),
              "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}  # fmt: skip
    tiny: Any = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16),
        unet=UNet2DConditionModel(16, 4, 4, cross_attention_dim=32, norm_num_groups=4, attention_head_dim=4,
                                  layers_per_block=1, **blocks),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    tiny.save_pretrained(folder / "tiny")
    return folder / "tiny"


# A tiny finished run: 16×16 faces, an untrained autoencoder, a flow at its linear start; every number is quick.
FACES = {"_target_": "datamodules.faces.faces", "n": 200, "size": 16, "seed": 0}
CONFIG = {"seed": 0, "encoder": {"name": "vae", "checkpoint": None}, "model": {"name": "iin"},
          "vae": {"_target_": "models.vae.VAE"}, "iin": {"_target_": "models.iin.IIN"}}  # fmt: skip


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that no test may change."""
    import pytorch_lightning as pl
    import torch
    from omegaconf import OmegaConf

    from datamodules.faces import faces
    from datamodules.splits import TRAIN
    from models.iin import IIN
    from models.vae import VAE
    from training.run_folder import Run

    def save(module: pl.LightningModule, name: str) -> None:
        content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        torch.save(content | {"pytorch-lightning_version": pl.__version__}, folder / "checkpoints" / name)

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "faces" / "iin" / "first"
    cache = str(tmp_path_factory.mktemp("cache"))
    run = Run(folder, OmegaConf.create(CONFIG | {"data": FACES | {"cache_dir": cache}}))
    (folder / "checkpoints").mkdir()
    data, vae = faces(n=200, size=16, cache_dir=cache), VAE(size=16, latent=10, width=4).eval()
    run.manifest(data, vae.identity, seed=0, device="cpu")
    with torch.no_grad():
        mean, logvar = vae.encode(data.images[data.rows(TRAIN)])
    labels = data.factors[data.rows(TRAIN)]
    iin = IIN(10, [(f.name, f.kind, list(f.values)) for f in labels.factors], blocks=2, width=8).eval()
    iin.start(mean, logvar, labels.values)
    iin.calibrate(mean, labels.values)
    save(vae, "vae.ckpt")
    save(iin, "last.ckpt")
    run.save()
    return folder


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A run folder to break."""
    return shutil.copytree(finished_run, tmp_path / "run")
