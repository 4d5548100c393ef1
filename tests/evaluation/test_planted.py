"""Data with a known answer are what they say, and the command finds the answers."""

import json

import pytest
import torch

from evaluation import planted
from models import UserError
from models.reduction import pca
from models.sae import Codes


def test_a_part_of_the_support_by_hand() -> None:
    codes = Codes(torch.tensor([[2.0, 1.0], [1.0, 0.0]]), torch.tensor([[4, 0], [7, 1]]))
    support = torch.tensor([[0, 3], [7, 8]])  # found 4, 0 and 7; right are 0 and 7
    assert planted.support_f1(codes, support) == pytest.approx(2 * 2 / (3 + 4))


def test_units_are_matched_one_to_one() -> None:
    directions = torch.eye(3)
    found = torch.tensor([[0.0, 1.0, 0.1], [0.0, 0.9, 0.0], [0.0, 0.1, 1.0], [1.0, 0.0, 0.0]])
    codes = planted.matched(Codes(torch.ones(1, 4), torch.tensor([[0, 1, 2, 3]])), found, directions)
    assert codes.units.tolist() == [[1, -1, 2, 0]]


def test_the_answers_are_there() -> None:
    places, rows = planted.flat(0, 500)
    assert planted.kept(places, places) == 1 and planted.kept(places, pca(rows)(rows)[:, :5]) > 0.9
    places, rows = planted.bent(0, 500)
    assert 0.3 < planted.kept(places, pca(rows)(rows)[:, :2]) < 0.8  # no plane is a bent one
    assert planted.kept(places, pca(rows)(rows)[:, :3]) > 0.9  # but it lies in three dimensions


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(planted, "reductions", lambda name, make, seed: {name: float(seed)})
    monkeypatch.setattr(planted, "sae", lambda seed: {})  # test_sae trains them, test_mds the linear map
    monkeypatch.setattr(planted, "linear_mds", lambda seed: {})
    planted.main(["seeds=2", "json=true"])
    found = json.loads(capsys.readouterr().out)
    assert found["flat"] == {"mean": 0.5, "sd": pytest.approx(0.5**0.5)}
    assert found["SpLiCE: support F1"]["mean"] > 0.95 and found["SpLiCE: difference from Lasso"]["mean"] < 1e-4
    with pytest.raises(UserError, match="Expected seeds= of at least 1, got 0"):
        planted.main(["seeds=0"])
