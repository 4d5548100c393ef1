"""What the command refuses, and that it does so before any map is computed."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.factors import FactorTable
from datamodules.features import FeatureData
from evaluation.maps.export import check_columns
from evaluation.maps.run_maps import Options, colours, map_run
from evaluation.run import LoadedRun, described
from models import UserError
from models.labels import Factor


def run_of(folder: Path, factor: str) -> LoadedRun:
    """A run of nine vectors with one factor."""
    table = FactorTable((Factor(factor, "categorical", ("a", "b"), ""),), torch.arange(9.0)[:, None] % 2)
    run = LoadedRun(folder, OmegaConf.create({"model": {"name": "dec"}}), {}, torch.device("cpu"))
    ids = [str(i) for i in range(9)]
    vars(run)["vectors"] = FeatureData("nine", torch.randn(9, 4), ids, table, torch.zeros(9, dtype=torch.uint8), "")
    return run


@pytest.mark.parametrize("name", ["image", "neighbors", "projection_x"])
def test_a_factor_with_the_name_of_a_maps_column(tmp_path: Path, name: str) -> None:
    run = run_of(tmp_path, name)
    table = described(run)
    check_columns(table)
    assert name not in table and list(colours(run, table)) == [f"label/{name}"]


@pytest.mark.parametrize("neighbours", [15, 9])
def test_the_neighbours_of_umap_can_be_chosen(tmp_path: Path, neighbours: int) -> None:
    asked = Options("", method="umap", spaces=["features"], neighbours=neighbours)
    with pytest.raises(UserError, match=f"from 2 to less than the 9 rows, got {neighbours}: choose neighbours=4"):
        map_run(run_of(tmp_path, "kind"), asked)


def test_no_space_is_no_default(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected spaces= among features, as the run has them, got none"):
        map_run(run_of(tmp_path, "kind"), Options("", method="pca", spaces=[]))
