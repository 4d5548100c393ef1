"""Train and measure, stage by stage: python train.py [data=… encoder=… model=… trainer=… experiment=… key=value]."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from models import UserError, one_line
from training import resolvers
from training.command_line import quoted
from training.renamed import with_new_names
from training.stored_settings import with_groups

if TYPE_CHECKING:  # slow to load: after the configuration is known to be one
    from training.run_folder import Run

__all__ = ["main", "resolvers", "train"]
failed, composed = False, False  # an error before composition is one of the settings, which Hydra has printed


def train(config: DictConfig, run: "Run") -> None:
    """Run the pipeline that configs/model/<name>.yaml names, and write the report."""
    from hydra.utils import get_method

    from evaluation.report.page import write_report
    from evaluation.report.summary import print_summary

    get_method(config.model.pipeline)(config, run)
    with run.stage("report"):
        write_report(run.path)
    print_summary(run)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    """Compose the settings and train; a user's error is one line, the rest of a sweep goes on, the exit code is 2."""
    global composed, failed
    composed = True
    # Hydra prints what any library logs; its own lines say which job of a sweep runs.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("hydra").setLevel(logging.INFO)
    from training.defaults import with_encoder
    from training.interrupt import Interrupted, interruptible
    from training.run_folder import how_to_go_on, open_run
    from training.settings import resolve_settings

    try:
        overrides = list(HydraConfig.get().overrides.task)
        config, choices = with_encoder(config, overrides, HydraConfig.get().runtime.choices)
        config = resolve_settings(config, overrides, choices)
        with interruptible(), open_run(config) as run:
            train(config, run)
    except Interrupted as ended:
        print(how_to_go_on(Path(config.run_dir), ended.name), file=sys.stderr, flush=True)
        raise
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        failed = True


if __name__ == "__main__":
    sys.argv[1:] = quoted(with_groups(with_new_names(sys.argv[1:])))
    try:
        main()
    except SystemExit as ended:
        sys.exit(2 if ended.code == 1 and not composed else ended.code)
    sys.exit(2 if failed else 0)
