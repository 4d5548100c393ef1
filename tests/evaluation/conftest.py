"""A tiny finished run: 16×16 faces, an untrained autoencoder, a flow at its linear start; every number is quick."""

import shutil
from pathlib import Path

import pytest

FACES = {"_target_": "datamodules.faces.faces", "n": 200, "size": 16, "seed": 0}
CONFIG = {"seed": 0, "encoder": {"name": "vae", "checkpoint": None}, "model": {"name": "iin"}}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that no test may change."""
    import pytorch_lightning as pl
    import torch
    from omegaconf import OmegaConf

    from datamodules.faces import faces
    from datamodules.factors import TRAIN
    from evaluation.record import Run
    from models.iin import IIN
    from models.vae import VAE

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
