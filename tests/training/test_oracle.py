"""The oracle in a world whose counterfactuals it can learn."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from datamodules.splits import TEST, TRAIN
from evaluation.editing.measure import measure
from models.oracle import Oracle
from tests.evaluation.linear_world import FACTORS, World, linear_world
from training.oracle import counterfactual_latents, draw_targets, other_class, train_oracle


@pytest.fixture(scope="module")
def world() -> World:
    return linear_world(1200)


def train(world: World, **options: Any) -> Oracle:
    rows = world.data.rows(TRAIN)
    options = {"epochs": 30, "batch": 64, "width": 64} | options
    return train_oracle(world.data, world.encoder, world.latents[rows], rows, **options)


def test_the_oracle_learns_the_counterfactuals(world: World) -> None:
    rows = world.data.rows(TEST)
    editors = {"oracle": train(world)}
    found = measure(editors, world.latents[rows], world.data.factors[rows], world.encoder, world.judge, world.data,
                    rows, scanned=())["oracle"]  # fmt: skip
    for factor, result in zip(found.factors, found.results, strict=True):
        assert result.counterfactual is not None and result.counterfactual > 0.7, factor.name
        assert result.success is not None and result.success > 0.95, factor.name
        assert result.leakage is not None and result.leakage < 0.05, factor.name


def test_strength_is_linear(world: World) -> None:
    oracle = train(world, epochs=1)
    z = world.latents[:7]
    full = oracle.edit(z, 2, torch.full((7,), 2.0)) - z
    torch.testing.assert_close(oracle.edit(z, 2, torch.full((7,), 2.0), 0.5) - z, full / 2)
    assert full.abs().max() > 1e-3
    assert not torch.allclose(full, oracle.edit(z, 2, torch.full((7,), 1.0)) - z)


def test_training_repeats_and_leaves_random_state_alone(world: World) -> None:
    state = torch.get_rng_state()
    first, second, other = train(world, epochs=1), train(world, epochs=1), train(world, epochs=1, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (torch.cat([p.flatten() for p in oracle.parameters()]) for oracle in (first, second, other))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_training_says_how_far_it_is(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    train(world, epochs=2)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Training the oracle on pairs: 1200 of 2400, ")  # 600 scenes, both ways round
    assert last.startswith("Training the oracle on pairs: 2400 of 2400, ")


def test_counterfactual_latents_are_those_of_the_redrawn_scenes(world: World) -> None:
    rows, values = torch.arange(5), torch.tensor([1.0, 0, 1, 0, 1])
    latents = counterfactual_latents(world.data, world.encoder, rows, "hat", values, torch.device("cpu"), batch=2)
    read = world.judge.read(world.encoder.decode(latents))
    expected = world.data.factors.values[:5].clone()
    expected[:, 1] = values
    torch.testing.assert_close(read, expected)


def test_each_row_is_given_another_value_of_a_factor_it_has(world: World) -> None:
    values = world.data.factors.values.clone()
    values[:400, 0] = torch.nan
    values[:10] = torch.nan
    which, target = draw_targets(values, FACTORS, torch.Generator().manual_seed(0))
    assert (which[:10] == -1).all() and target[:10].isnan().all()
    assert (which[10:400] > 0).all() and set(which[400:].tolist()) == {0, 1, 2, 3}
    for i in range(3):
        rows = which == i
        assert (target[rows] != values[rows, i]).all()
    assert torch.equal(target[which == 3].sort().values, values[which == 3, 3].sort().values)


def test_other_class() -> None:
    generator = torch.Generator().manual_seed(0)
    assert other_class(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), generator).tolist() == [1, 0]
    drawn = other_class(torch.full((90,), 3.0), torch.tensor([0.0, 2.0, 3.0]), generator)
    assert set(drawn.tolist()) == {0, 2} and 25 < (drawn == 2).sum() < 65


def test_unknown_scenes_are_refused(world: World) -> None:
    data = replace(world.data, counterfactual=None)
    with pytest.raises(ValueError, match="not known"):
        counterfactual_latents(data, world.encoder, torch.arange(2), "hat", torch.ones(2), torch.device("cpu"))
