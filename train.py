"""Train and measure, stage by stage: python train.py [data=… encoder=… model=… trainer=… experiment=… key=value]."""

import sys
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from models import UserError

if TYPE_CHECKING:  # slow to load: after the configuration is known to be one
    from evaluation.record import Run

OmegaConf.register_new_resolver("data_name", lambda target: target.split(".")[-1], replace=True)
failed, composed = False, False  # an error before it is composed is the configuration's, which Hydra has printed


def train(config: DictConfig, run: "Run") -> None:
    """One run, from data to report."""
    from datamodules.factors import TRAIN
    from evaluation import clustering, concepts, embedding, photographs, prompts, retrieval, training
    from evaluation.measuring import identity_model, judge_networks, measure_autoencoder, measure_iin
    from evaluation.outside import outside_judge
    from evaluation.record import device_of, made
    from evaluation.report import write_report
    from models import dlib_faces

    device = device_of(config)
    embed, networks = identity_model(config, device), judge_networks(config, device)
    frozen_encoder = training.frozen_encoder(config)
    frozen = {"mds": retrieval.compare, "sae": concepts.learn_concepts, "embedding": embedding.learn_embedding}
    with run.stage("data") as stage:
        data = prompts.labelled(config, made(config.data), run)
        stage.items = len(data.ids)
    for note in [*data.notes, *(f"Skipped, cannot be read: {name}" for name in data.skipped)]:
        print(note)
    outside = outside_judge(networks, data.factors.factors, data.size) if networks else None
    if "k" in config:  # a clustering model
        clustering.check_settings(config, data)
        clustering.cluster(config, training.features_of(config, data, run), run, device)
    elif config.model.name in frozen:
        frozen[config.model.name](config, data, run, device)
    else:
        encoder, latents = training.latents_of(config, data, run, frozen_encoder)
        measure_autoencoder(data, encoder, latents, run)
    if config.model.name == "iin":
        rows = data.rows(TRAIN)
        known, labels = latents.rows(rows.to(device)), data.factors[rows]
        faithful = config.iin.objective == "faithful" and labels.factors
        diffusion = len(encoder.latent_shape) == 3 and config.iin.coupling in (None, "diffusion")
        reader = training.reader_rows(data) if diffusion and faithful else None
        guide = training.train_guide(config, data, known, encoder, run) if faithful else None
        iin = training.train_iin(config, known, labels, guide, run, encoder, reader)
        measure_iin(config, data, encoder, latents, iin, run, embed, outside)
        if dlib_faces.are_installed():
            photographs.kept_place(run.path, lambda: data)  # so that photographs can be edited without the data
    with run.stage("report"):
        write_report(run.path)
    run.summary()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    """Errors that a user can mend are one line; the other runs of a sweep go on, and the exit code is 2."""
    global composed, failed
    composed = True
    from evaluation.defaults import with_encoder
    from evaluation.record import begun
    from evaluation.settings import asked

    try:
        overrides = list(HydraConfig.get().overrides.task)
        config, choices = with_encoder(config, overrides, HydraConfig.get().runtime.choices)
        config = asked(config, overrides, choices)
        with begun(config) as run:
            train(config, run)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        failed = True


if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended:
        sys.exit(2 if ended.code == 1 and not composed else ended.code)
    sys.exit(2 if failed else 0)
