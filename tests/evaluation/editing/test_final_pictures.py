"""Final pictures in a world with known answers; a committee that one member cannot fool."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from datamodules.factors import FactorTable
from datamodules.splits import TEST
from evaluation.editing.baselines import AtStrength
from evaluation.editing.final_pictures import as_pictures, final_pictures, identity_space, read_by_judge
from evaluation.editing.measure import measure
from evaluation.editing.measurement import Measurement, keys
from models.interfaces import Editor, FaceEmbedder, ImageJudge, JudgeCommittee
from tests.evaluation.linear_world import (
    ExactJudge,
    LeakyEditor,
    NoEdit,
    PixelEditor,
    RandomEdit,
    RotatedPixels,
    World,
    linear_world,
)

NAN = float("nan")


@pytest.fixture(scope="module")
def world() -> World:
    return linear_world()


class Committee(ExactJudge):
    """A member that never errs, one that sees glasses by another pixel, and one that cannot tell them."""

    names: Sequence[str] = ("exact", "elsewhere", "blind")

    def read_members(self, images: Tensor) -> Tensor:
        exact = self.read(images)
        elsewhere, blind = exact.clone(), exact.clone()
        elsewhere[:, 0], blind[:, 0] = (images.flatten(1)[:, 4] > 0.5).float(), NAN
        return torch.stack([exact, elsewhere, blind])


def measured(
    world: World, editors: dict[str, Editor], judge: ImageJudge | None = None, embed: FaceEmbedder | None = None,
    how: str = "add", drawn: bool = True,
) -> dict[str, Measurement]:  # fmt: skip
    rows = world.data.rows(TEST)
    data = world.data if drawn else replace(world.data, counterfactual=None)
    return measure(editors, world.latents[rows], world.data.factors[rows], world.encoder, judge or world.judge, data,
                   rows, (0.3, 0.7), embed=embed, how=how)  # fmt: skip


def test_a_final_picture_is_of_whole_numbers_and_no_edit_leaves_it(world: World) -> None:
    photographs = as_pictures(world.data.images[:5])
    reconstructions = torch.rand(5, 3, 2, 2)
    for how in ("add", "threshold"):
        assert torch.equal(final_pictures(photographs, reconstructions, reconstructions, how), photographs)
    final = final_pictures(photographs, reconstructions, torch.rand(5, 3, 2, 2), "add") * 255
    torch.testing.assert_close(final, final.round())


def test_a_perfect_editor(world: World) -> None:
    for result in measured(world, {"edit": PixelEditor(world.encoder)})["edit"].results:
        assert result.effectiveness == 1 and result.final_leakage == 0 and result.leakage_at_equal == 0
        assert result.counterfactual_image == pytest.approx(1, abs=0.01) and result.photographs >= 290
        assert result.identity_distance is None and result.frechet_identity is None and result.fid is None
        assert result.minimality is not None and result.minimality < 0.5, "nobody with that value is as near"
        assert result.by_member == {}


def test_no_edit(world: World) -> None:
    for result in measured(world, {"edit": NoEdit()}, embed=lambda images: images.flatten(1))["edit"].results:
        assert result.effectiveness == 0 and result.final_leakage == 0 and result.counterfactual_image == 0
        assert result.minimality == pytest.approx(0.2954, abs=1e-4) and result.identity_distance == 0


def test_a_random_edit_is_far_and_leaks(world: World) -> None:
    result = measured(world, {"edit": RandomEdit()}, embed=lambda images: images.flatten(1), drawn=False)["edit"]
    for one in result.results:
        assert one.final_leakage is not None and one.final_leakage > 0.2
        assert one.minimality is not None and one.minimality > 0.3
        assert one.identity_distance is not None and one.identity_distance > 0.3
        assert one.counterfactual_image is None


def test_without_composition_the_reconstruction_is_shown(world: World) -> None:
    """The encoder keeps all but the last six numbers, which are 0, so both ways give the same here."""
    for how in ("none", "threshold"):
        for one in measured(world, {"edit": PixelEditor(world.encoder)}, how=how)["edit"].results:
            assert one.effectiveness is not None and one.effectiveness > 0.95


def test_identity_of_photographs_is_of_the_final_picture(world: World) -> None:
    """A reconstruction that lost the person: the old number would compare it with itself."""
    spoilt = replace(world, encoder=Spoilt())
    for how, distance in (("add", 0.0), ("none", 0.1)):
        result = measured(spoilt, {"edit": NoEdit()}, embed=lambda images: images.flatten(1), how=how, drawn=False)
        for one in result["edit"].results:
            assert one.identity_distance == pytest.approx(distance * 12**0.5, abs=0.02)
            assert one.identity is not None and (one.identity == pytest.approx(1)) == (how == "add")


class Spoilt(RotatedPixels):
    """Adds .1 to all that it decodes."""

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents) + 0.1


def test_a_committee_is_not_fooled_with_one_of_its_members(world: World) -> None:
    committee = Committee()
    assert isinstance(committee, JudgeCommittee) and not isinstance(world.judge, JudgeCommittee)
    editor = PixelEditor(world.encoder)
    result = measured(world, {"edit": editor}, committee)["edit"]
    glasses, hat = result.results[:2]
    assert glasses.by_member == {"exact": 1, "elsewhere": 0}, "the blind one sees no label to start from"
    assert glasses.effectiveness == 0.5 and glasses.success == 1
    assert hat.effectiveness == 1 and set(hat.by_member) == {"exact", "elsewhere", "blind"}
    found = keys(result, "edit")
    assert found["edit/glasses/effectiveness_exact"] == 1 and found["edit/glasses/effectiveness_elsewhere"] == 0
    assert "edit/glasses/effectiveness_blind" not in found


def test_a_committee_with_a_vote_reads_once() -> None:
    class Voting(Committee):
        reads = 0

        def read_members(self, images: Tensor) -> Tensor:
            self.reads += 1
            return super().read_members(images)

        def vote(self, members: Tensor) -> Tensor:
            return members[1]

    judge = Voting()
    readings = read_by_judge(judge, torch.rand(4, 3, 2, 2))
    assert judge.reads == 1 and torch.equal(readings.vote, readings.members[1])


class Slow(LeakyEditor):
    """Glasses come at strength 1.4, and with them, from 1.2 on, another hat."""

    def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
        if factor:
            return PixelEditor.edit(self, latents, factor, value, min(strength, 1.0))
        glasses = PixelEditor.edit(self, latents, 0, value, float(strength >= 1.4))
        hats = super().edit(latents, 0, value, 1.0) if strength >= 1.2 else glasses
        return hats if strength >= 1.4 else glasses


def test_leakage_at_equal_effectiveness(world: World) -> None:
    slow = Slow(world.encoder)
    editors: dict[str, Editor] = {"edit": PixelEditor(world.encoder), "slow": slow}
    editors |= {f"slow_{s}": AtStrength(slow, float(s)) for s in (2, 3)}
    found = measured(world, editors)
    assert found["edit"].results[0].leakage_at_equal == 0, "that of the flow is its own"
    assert found["slow"].results[0].effectiveness == 0 and found["slow_2"].results[0].effectiveness == 1
    assert found["slow"].results[0].leakage_at_equal == pytest.approx(found["slow_2"].results[0].final_leakage)
    assert found["slow_2"].results[0].leakage_at_equal is None
    never = measured(world, {"edit": PixelEditor(world.encoder), "not": NoEdit(), "not_2": AtStrength(NoEdit(), 2.0)})
    assert never["not"].results[0].leakage_at_equal is None


def test_scans_of_photographs_are_of_few(world: World) -> None:
    class Counting(PixelEditor):
        scanned = 0

        def edit(self, latents: Tensor, factor: int, value: Tensor, strength: float = 1.0) -> Tensor:
            self.scanned += len(latents) if strength != 1 else 0
            return super().edit(latents, factor, value, strength)

    few, many = Counting(world.encoder), Counting(world.encoder)
    measured(world, {"edit": few}, drawn=False)
    measured(world, {"edit": many})
    assert 0 < few.scanned <= 4 * 2 * 64 < many.scanned


def test_rare_values_are_filled_up_with_other_photographs() -> None:
    world = linear_world(2000)
    values = world.data.factors.values.clone()
    values[:, 0] = (torch.arange(2000) % 40 < 2).float()  # one in twenty wears glasses, in both splits
    data = replace(world.data, factors=FactorTable(world.data.factors.factors, values))
    rows = data.rows(TEST)
    space = identity_space(data, rows, lambda images: images.flatten(1))
    assert torch.equal(space.rows[:500], rows[:500]) and len(space.rows.unique()) == len(space.rows)
    assert 500 < len(space.rows) <= 600, "those that there are in the other split"
    assert (space.labels[500:, 0] == 1).all() and not torch.isin(space.rows[500:], rows).any()


def test_fid_features_are_of_the_runs_own_edits_alone(world: World) -> None:
    rows, shapes = world.data.rows(TEST), []

    def features(images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        shapes.append(len(images))
        return images.flatten(1).float()

    editors: dict[str, Editor] = {"edit": PixelEditor(world.encoder), "other": NoEdit()}
    found = measure(editors, world.latents[rows], world.data.factors[rows], world.encoder, world.judge,
                    replace(world.data, counterfactual=None), rows, (0.5,), how="add", fid=features)  # fmt: skip
    own, other = found["edit"].results[0].fid, found["other"].results[0].fid
    assert own is not None and 0 <= own < 2000 and other is None
    assert sum(shapes) <= 300 + 4 * 300, "the real photographs once"
