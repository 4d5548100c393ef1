"""Reductions of embeddings against the number of dimensions: python -m evaluation.retrieval run=RUN [dims=[8,32]]
[methods=[pca,isometric]] [against=pca] [json=true].

Of a run of model=mds, which fits what is missing. Of pairs: text → image and image → text R@1, 5 and 10 among held-out
pairs. Of other rows, asked of held-out ones about those that were fitted on: the accuracy of a vote of the 1, 5 and 10
nearest about a label (label/NAME), and the share of the 1, 5 and 10 nearest that stay so (neighbours). In a run of
fit_on=all every row is fitted on and asked about. retrieval.csv has for every method, width and direction

  r1, r5, r10, correct, n     shares, and those right at 1 of the n that were asked
  r1_low, r1_high             95 % of 1,000 bootstrap draws of the images (of the rows) that were asked
  against, p                  McNemar's exact test against another method at the same width
  difference_low, _high       95 % of the same draws of the difference in r1

Captions of one image are drawn together, and are one query of the test.

`full` are the embeddings as they are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import MISSING, OmegaConf

from datamodules.captions import PairData, extract_pairs
from datamodules.features import FeatureData
from evaluation.command import aside, command, options
from evaluation.reduction.pipeline import measured, write_results
from evaluation.report.page import write_report
from evaluation.run import load
from models import UserError
from training.run_folder import Run

__all__ = ["Options", "main"]


@dataclass
class Options:
    run: str = MISSING
    dims: list[int] | None = None
    methods: list[str] | None = None
    against: str | None = None
    json: bool = False


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    run = load(asked.run)
    if run.config.model.name != "mds":
        raise UserError(f"Expected a run of model=mds, got one of {run.config.model.name} at {run.path}: train one.")
    changed = {key: value for key, value in vars(asked).items() if key not in ("run", "json") and value is not None}
    config, record = OmegaConf.merge(run.config, changed), Run(run.path, run.config)
    with aside(asked.json):
        data = run.data if isinstance(run.data, PairData) else run.vectors
        if isinstance(data, PairData) and not isinstance(data.texts, FeatureData):
            data = extract_pairs(data, run.encoder, config.cache_dir, run.device)
        table = write_results(measured(config, data, record, run.device), record)
        record.save()
        report = write_report(run.path)
    if asked.json:
        print(json.dumps(json.loads(table.to_json(orient="records"))))
    else:
        print(f"\nOpen: {report}")


if __name__ == "__main__":
    command(main)
