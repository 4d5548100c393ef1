"""Train and measure, stage by stage: python train.py [data=… encoder=… model=… trainer=… experiment=… key=value]."""

import sys
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from models import UserError
from training import resolvers

if TYPE_CHECKING:  # slow to load: after the configuration is known to be one
    from training.run_folder import Run

__all__ = ["main", "resolvers", "train"]
failed, composed = False, False  # an error before it is composed is the configuration's, which Hydra has printed


def train(config: DictConfig, run: "Run") -> None:
    """One run, from data to report, by the pipeline that configs/model/<name>.yaml names."""
    from hydra.utils import get_method

    from evaluation.report.page import write_report
    from evaluation.report.summary import print_summary

    get_method(config.model.pipeline)(config, run)
    with run.stage("report"):
        write_report(run.path)
    print_summary(run)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    """Errors that a user can mend are one line; the other runs of a sweep go on, and the exit code is 2."""
    global composed, failed
    composed = True
    from training.defaults import with_encoder
    from training.run_folder import open_run
    from training.settings import resolve_settings

    try:
        overrides = list(HydraConfig.get().overrides.task)
        config, choices = with_encoder(config, overrides, HydraConfig.get().runtime.choices)
        config = resolve_settings(config, overrides, choices)
        with open_run(config) as run:
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
