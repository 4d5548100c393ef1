"""Measure the retrieval of reduced embeddings by their number of dimensions: python -m evaluation.retrieval run=RUN
[dims=[8,32]] [methods=[pca,isometric]] [against=pca] [json=true].

The run is one of model=mds; reductions that it does not have yet are fitted. On pairs the command measures
text → image and image → text recall@1, 5 and 10 among held-out pairs. On other rows the queries are held-out rows and
the candidates are the rows that the reductions were fitted on: it measures the accuracy of k-NN classification of each
label with k = 1, 5 and 10 (label/NAME), and the share of the k nearest neighbours that are kept (neighbours). In a run
with fit_on=all every row is fitted on and is a query. retrieval.csv has for every method, number of dimensions and
direction

  r1, r5, r10, correct, n     recall@1, 5 and 10, the number of correct queries at 1, and the number of queries
  r1_low, r1_high             95 % interval of recall@1 over 1,000 bootstrap draws of the images (or the rows) queried
  against, p                  exact test of McNemar against another method at the same number of dimensions
  difference_low, _high       95 % interval, over the same draws, of the difference in recall@1

Captions of one image are drawn together, and count as one query of the test. `full` is the embedding without reduction.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import MISSING, OmegaConf

from datamodules.captions import PairData, extract_pairs
from datamodules.features import FeatureData
from evaluation.command import command, data_places, json_only, option, parse_options
from evaluation.reduction.pipeline import measured, write_results
from evaluation.report.page import write_report
from evaluation.run import load
from models import UserError
from training.run_folder import Run

__all__ = ["Options", "main"]


@dataclass
class Options:
    """Options, given as key=value."""

    run: str = option(MISSING, "run folder of model=mds, or a folder whose newest run is taken")
    dims: list[int] | None = option(None, "numbers of dimensions (default: the run's)")
    methods: list[str] | None = option(None, "reduction methods (default: the run's)")
    against: str | None = option(None, "method that the others are tested against (default: the run's)")
    json: bool = option(False, "print retrieval.csv as JSON")


def main(arguments: Sequence[str]) -> None:
    """Fit what is missing, measure retrieval, and write the table, the figure and the report."""
    arguments, places = data_places(arguments)
    options = parse_options(Options, arguments)
    run = load(options.run, places=places)
    if run.config.model.name != "mds":
        raise UserError(f"Expected a run of model=mds, got one of {run.config.model.name} at {run.path}: train one.")
    changed = {key: value for key, value in vars(options).items() if key not in ("run", "json") and value is not None}
    config, record = OmegaConf.merge(run.config, changed), Run(run.path, run.config)
    with json_only(options.json):
        data = run.data if isinstance(run.data, PairData) else run.vectors
        if isinstance(data, PairData) and not isinstance(data.texts, FeatureData):
            data = extract_pairs(data, run.encoder, config.cache_dir, run.device)
        table = write_results(measured(config, data, record, run.device), record)
        record.save()
        report = write_report(run.path)
    if options.json:
        print(json.dumps(json.loads(table.to_json(orient="records"))))
    else:
        print(f"\nOpen: {report}")


if __name__ == "__main__":
    command(main, Options)
