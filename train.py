"""Train and measure: python train.py [data=… encoder=… model=… trainer=… experiment=… key=value].

Compose the configuration, then stage by stage: data → encoder → latents → model → evaluation → report.
"""

import sys
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from models import UserError

OmegaConf.register_new_resolver("data_name", lambda target: target.split(".")[-1], replace=True)
composed = False  # an error before that is one of the configuration, which Hydra has printed


def train(config: DictConfig) -> None:
    """One run, from data to report."""
    from datamodules.factors import TRAIN
    from datamodules.features import encode
    from evaluation import training
    from evaluation.fitting import device_of
    from evaluation.measuring import measure_autoencoder, measure_iin
    from evaluation.record import Run, made
    from evaluation.report import write_report

    run, device = Run(config.run_dir, config), device_of(config)
    with run.stage("data") as stage:
        data = made(config.data)
        stage.items = len(data.images)
    for note in [*data.notes, *(f"Skipped, cannot be read: {name}" for name in data.skipped)]:
        print(note)
    training.check_iin(config, data.factors)
    encoder = training.image_encoder(config, data, run)
    run.manifest(data, encoder.identity, config.seed, str(device), random_weights=False)
    with run.stage("encode", len(data.images)):
        latents = encode(data, encoder, config.cache_dir, device)
    measure_autoencoder(data, encoder, latents, run)
    if config.model.name == "iin":
        rows = data.rows(TRAIN)
        known, labels = latents.rows(rows.to(device)), data.factors[rows]
        faithful = config.iin.objective == "faithful" and labels.factors
        guide = training.train_guide(config, data, known, encoder, run) if faithful else None
        iin = training.train_iin(config, known, labels, guide, run, encoder)
        measure_iin(config, data, encoder, latents, iin, run)
    run.save()
    write_report(run.path)
    run.summary()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    """Errors that a user can mend are one line and exit code 2."""
    global composed
    composed = True
    try:
        if config.ckpt is not None:
            config = resumed(config)
        train(config)
    except UserError as error:
        from evaluation.record import remove_unused

        remove_unused(config.run_dir)
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def resumed(config: DictConfig) -> DictConfig:
    """The configuration of the run that the checkpoint belongs to, with this command line's settings on top."""
    folder = Path(config.ckpt).resolve().parent.parent
    if not Path(config.ckpt).exists() or not (folder / "config.yaml").exists():
        raise UserError(f"Expected ckpt= to be a file in the checkpoints folder of a run, got {config.ckpt}.")
    settings = [item for item in HydraConfig.get().overrides.task if "=" in item and not item.startswith("ckpt=")]
    stored = cast(DictConfig, OmegaConf.load(folder / "config.yaml"))
    stored.merge_with(OmegaConf.from_dotlist(settings), {"run_dir": str(folder)})
    return stored


if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended:
        sys.exit(2 if ended.code == 1 and not composed else ended.code)
