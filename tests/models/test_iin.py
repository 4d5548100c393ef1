import pytest
import torch

from models.iin import IIN
from models.iin_blocks import block_sizes_from_pairs
from models.iin_losses import label_loss, pair_loss
from models.labels import LabelEmbedding
from tests.references import iin_loss as reference

FACTORS = [
    ("glasses", "binary", ["without", "with"]),
    ("race", "categorical", ["a", "b", "c"]),
    ("age", "continuous", ["young", "old"]),
]


def world(n: int = 4000, d: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents that are a fixed rotation of (label embedding + small noise, free residual)."""
    generator = torch.Generator().manual_seed(0)
    values = torch.stack([torch.randint(2, (n,), generator=generator), torch.randint(3, (n,), generator=generator),
                          torch.randint(100, (n,), generator=generator)], 1).float()  # fmt: skip
    labels = LabelEmbedding(FACTORS)
    labels.fit(values)
    source = torch.randn(n, d, generator=generator)
    source[:, :4] = labels(values) + 0.1 * source[:, :4]
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    return source @ rotation, values, rotation


def test_pair_loss_is_the_authors() -> None:
    torch.manual_seed(0)
    blocks, shared_factor = [2, 3, 1], torch.tensor([0, 1, 2, 1])
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    log_det_a, log_det_b = torch.randn(4), torch.randn(4)
    masks = torch.zeros(3, 6)
    for i, block in enumerate((slice(0, 2), slice(2, 5), slice(5, 6))):
        masks[i, block] = 1
    losses = pair_loss(a, b, log_det_a, log_det_b, masks[shared_factor], 0.975)
    for i in range(4):
        split_a, split_b = ([part.tolist() for part in row.split(blocks)] for row in (a[i], b[i]))
        expected = reference.pair_loss(
            split_a, split_b, log_det_a[i].item(), log_det_b[i].item(), int(shared_factor[i]), 0.975
        )
        assert losses[i].item() == pytest.approx(expected, rel=1e-4)


def test_pair_loss_is_the_gaussian_likelihood_up_to_a_constant() -> None:
    a, b, zeros, one = torch.randn(10, 1), torch.randn(10, 1), torch.zeros(10), torch.ones(1)
    losses = pair_loss(a, b, zeros, zeros, one, 0.6)
    exact = torch.tensor([reference.gaussian_pair_nll(x.item(), y.item(), 0.6) for x, y in zip(a, b, strict=True)])
    assert (losses - exact).std() < 1e-5


def test_one_mask_for_all_pairs_and_a_correlation_per_pair() -> None:
    a, b, zeros = torch.randn(3, 2), torch.randn(3, 2), torch.zeros(3)
    mask, rho = torch.tensor([1.0, 0.0]), torch.tensor([0.1, 0.5, 0.9])
    each = [pair_loss(a[i : i + 1], b[i : i + 1], zeros[:1], zeros[:1], mask, rho[i].item()) for i in range(3)]
    torch.testing.assert_close(pair_loss(a, b, zeros, zeros, mask, rho), torch.cat(each))


def test_an_uncorrelated_pair_costs_39_5_times_a_correlated_one() -> None:
    torch.manual_seed(0)
    a, noise, zeros = torch.randn(400_000, 1), torch.randn(400_000, 1), torch.zeros(400_000)
    first = 0.5 * a.square().mean()
    correlated = (
        pair_loss(a, 0.975 * a + (1 - 0.975**2) ** 0.5 * noise, zeros, zeros, torch.ones(1), 0.975).mean() - first
    )
    unrelated = pair_loss(a, noise, zeros, zeros, torch.ones(1), 0.975).mean() - first
    assert correlated.item() == pytest.approx(0.5, abs=0.01)
    assert (unrelated / correlated).item() == pytest.approx((1 + 0.975**2) / (1 - 0.975**2), rel=0.02)


def test_label_loss_by_hand() -> None:
    codes, labels, known = torch.tensor([[1.5, 2.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    assert label_loss(codes, labels, known, 0.5).item() == pytest.approx(0.5 * (1.0 + 4.0))


def test_the_linear_start_reads_the_labels_and_edits_exactly_in_a_linear_world() -> None:
    latents, values, rotation = world()
    iin = IIN(8, FACTORS, blocks=2, width=8)
    iin.start(latents, torch.zeros_like(latents), values)
    iin.calibrate(latents, values)
    codes = iin.encode(latents)
    correlation = torch.corrcoef(torch.cat([codes[:, :4], iin.labels(values)], 1).T)[:4, 4:].diagonal()
    assert (correlation > 0.98).all()
    target = 1 - values[:, 0]
    edited = (iin.edit(latents, 0, target)) @ rotation.T
    before = latents @ rotation.T
    assert (edited[:, 0] - (target * 2 - 1)).abs().max() < 0.15
    assert (edited[:, 1:] - before[:, 1:]).abs().max() < 0.15
    assert (iin.edit(latents, 0, target, strength=0.0) - latents).abs().max() < 1e-4


def test_a_continuous_factor_and_a_class_are_set_to_their_values() -> None:
    latents, values, rotation = world()
    iin = IIN(8, FACTORS, objective="likelihood", linear_start=True, blocks=2, width=8)
    iin.start(latents, torch.zeros_like(latents), values)
    iin.calibrate(latents, values)
    aged = iin.edit(latents[:50], 2, torch.full((50,), 80.0)) @ rotation.T
    assert (aged[:, 3] - iin.labels.embed(2, torch.tensor([80.0]))).abs().max() < 0.1
    others = latents[:50][values[:50, 1] != 2]
    changed = iin.edit(others, 1, torch.full((len(others),), 2.0)) @ rotation.T
    assert (changed[:, 1:3] - iin.labels.embed(1, torch.tensor([2.0]))).abs().max() < 0.15


def test_values_are_read_off_the_codes_and_what_shows_a_value_already_stays() -> None:
    latents, values, _ = world()
    iin = IIN(8, FACTORS, blocks=2, width=8)
    iin.start(latents, torch.zeros_like(latents), values)
    iin.calibrate(latents, values)
    read = iin.read(latents[:200])
    assert torch.equal(read[:, :2], values[:200, :2])
    assert (read[:, 2] - values[:200, 2]).abs().mean() < 5  # years; the code has noise of a tenth of their deviation
    for factor in (0, 1):
        unchanged = iin.edit(latents[:200], factor, values[:200, factor])
        assert (unchanged - latents[:200]).abs().max() < 1e-5


def test_components_are_set_in_units_of_their_own_distribution() -> None:
    latents, values, _ = world()
    iin = IIN(8, FACTORS, blocks=2, width=8)
    iin.start(latents, torch.zeros_like(latents), values)
    iin.calibrate(latents, values)
    codes = iin.encode(latents)
    for value in (-2.0, 0.0, 1.0):
        share = 0.5 * (1 + torch.erf(torch.tensor(value / 2**0.5)))
        reached = iin.encode(iin.set_component(latents[:5], 6, value))[:, 6]
        assert reached.mean().item() == pytest.approx(torch.quantile(codes[:, 6], share).item(), abs=0.05)


def test_swap_takes_the_donors_block_and_nothing_else() -> None:
    latents, values, _ = world()
    iin = IIN(8, FACTORS, blocks=2, width=8)
    iin.start(latents, torch.zeros_like(latents), values)
    swapped = iin.encode(iin.swap(latents[:10], latents[10:20], 1))
    block = iin.blocks[1]
    torch.testing.assert_close(swapped[:, block], iin.encode(latents[10:20])[:, block], atol=1e-4, rtol=0)
    kept = [i for i in range(8) if not block.start <= i < block.stop]
    torch.testing.assert_close(swapped[:, kept], iin.encode(latents[:10])[:, kept], atol=1e-4, rtol=0)


def test_samples_carry_the_chosen_value() -> None:
    latents, values, _ = world()
    iin = IIN(8, FACTORS, blocks=2, width=8)
    iin.start(latents, torch.zeros_like(latents), values)
    iin.calibrate(latents, values)
    drawn = iin.encode(iin.sample(200, {0: 1.0}, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(drawn[:, 0], torch.ones(200), atol=1e-4, rtol=0)
    assert drawn[:, 5].std() > 0.7


def test_block_sizes_from_pairs_by_hand() -> None:
    torch.manual_seed(0)
    base = torch.randn(4000, 10)
    factor = torch.arange(4000) % 2
    partner = torch.where(factor[:, None] == 0, base, torch.randn(4000, 10))  # s = (1, 0), residual 1
    shares = torch.softmax(torch.tensor([1.0, 0.0, 1.0]), 0)
    assert block_sizes_from_pairs(base, partner, factor, 2) == [int(shares[0] * 10), int(shares[1] * 10)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": 4}, "fewer factor dimensions than the 4 latents, got 4"),
        ({"features": 9, "block_sizes": [3] * 3, "objective": "likelihood"}, "fewer .* than the 9 latents"),
        ({"features": 20, "block_sizes": [3, 3], "objective": "likelihood"}, r"one block size per factor \(3\), got 2"),
        ({"features": 20, "block_sizes": [3, 3, 3]}, "one component per label"),
        ({"features": 20, "correlation": 1.0}, r"in \[0, 1\)"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IIN(factors=FACTORS, **arguments)


def test_a_continuous_factor_follows_its_codes_where_they_bend() -> None:
    """The code of the value v is v², which no straight line follows."""
    values = torch.rand(4000, 1)
    latents = torch.cat([values.square(), torch.randn(4000, 2)], 1)
    iin = IIN(3, [("skin", "continuous", ["light", "dark"])], objective="likelihood", blocks=1, width=4)
    iin.encode = lambda z: z.clone()  # type: ignore[method-assign,assignment]
    iin.calibrate(latents, values)
    wanted = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(iin.target(0, wanted)[:, 0], wanted.square(), atol=0.01, rtol=0)
    ends = torch.stack([values.min(), values.max()])
    torch.testing.assert_close(iin.target(0, torch.tensor([-5.0, 9.0])), iin.target(0, ends))


def test_a_faithful_edit_sets_a_component_to_its_reach() -> None:
    latents, values, _ = world()
    iin = IIN(8, FACTORS, blocks=2, width=8, reach=2.5)
    iin.start(latents, torch.zeros_like(latents), values)
    iin.calibrate(latents, values)
    without = latents[values[:, 0] == 0][:20]
    edited = iin.encode(iin.edit(without, 0, torch.ones(20)))
    torch.testing.assert_close(edited[:, 0], torch.full((20,), 2.5), atol=1e-4, rtol=0)


def test_samples_have_the_residual_that_the_data_have() -> None:
    latents, values, _ = world()
    iin = IIN(8, FACTORS, blocks=2, width=8)
    iin.start(latents, torch.zeros_like(latents), values)
    with torch.no_grad():
        stretched = 0.3 * latents + 2.0  # codes far from the standard normal
    iin.calibrate(stretched, values)
    expected = iin.encode(stretched)[:, iin.residual :].detach()
    drawn = iin.encode(iin.sample(20_000, {}, torch.Generator().manual_seed(0)))[:, iin.residual :].detach()
    torch.testing.assert_close(drawn.mean(0), expected.mean(0), atol=0.03, rtol=0.03)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(expected.T), atol=0.02, rtol=0.05)


def test_a_faithful_flow_learns_the_edits_that_its_guide_shows() -> None:
    """z = (±(1 + u/2), u, v): the edit mirrors the first latent, and how far that is depends on the second."""
    torch.manual_seed(0)
    y, u, v = torch.randint(2, (2000, 1)).float(), torch.randn(2000, 1), torch.randn(2000, 1)
    latents = torch.cat([(2 * y - 1) * (1 + 0.5 * u), u, v], 1)
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    iin = IIN(3, FACTORS[:1], blocks=4, width=32)
    iin.start(latents, torch.full_like(latents, -6.0), y)
    iin.transport = lambda z, before, after: torch.where(before == after, z, z * mirror)

    def score() -> float:
        iin.calibrate(latents, y)
        left = (iin.edit(latents, 0, 1 - y[:, 0]) - latents * mirror).abs().sum()
        return 1 - (left / (latents - latents * mirror).abs().sum()).item()

    straight = score()
    optimizer = torch.optim.Adam([weight for weight in iin.flow.parameters() if weight.requires_grad], 3e-3)
    for _ in range(300):
        rows = torch.randint(2000, (256,))
        batch = {"mean": latents[rows], "logvar": torch.full((256, 3), -6.0), "labels": y[rows]}
        terms = iin.faithful_terms(batch | {"factor": torch.zeros(256, dtype=torch.long)})
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    after = score()
    assert straight < 0.8 and after > 0.9, f"{straight:.3f} at the linear start, {after:.3f} after training"
    kept = iin.encode(iin.edit(latents, 0, 1 - y[:, 0]))[:, 1:] - iin.encode(latents)[:, 1:]
    assert kept.abs().max() < 1e-3, "the other codes"
