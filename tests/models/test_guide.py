import math
from collections.abc import Callable

import torch

from models.guide import Guide, image_change, latent_nll, posterior_deviation, reading_loss, within_class_whitening

FACTORS = [("glasses", "binary", ["without", "with"])]


def test_whitening_leaves_unit_covariance_and_finds_the_direction() -> None:
    torch.manual_seed(0)
    labels = torch.randint(2, (5000, 1)).float() * 2 - 1
    mixing = torch.randn(4, 4)
    latents = torch.randn(5000, 4) @ mixing + labels * torch.tensor([3.0, 0.0, 0.0, 1.0])
    whitening, effects = within_class_whitening(latents, labels)
    residual = latents - labels @ torch.linalg.lstsq(labels, latents).solution
    torch.testing.assert_close(torch.cov((residual @ whitening).T), torch.eye(4), atol=0.05, rtol=0)
    expected = torch.tensor([[3.0, 0.0, 0.0, 1.0]]) @ whitening
    assert torch.nn.functional.cosine_similarity(effects, expected).item() > 0.99


def test_latent_nll_by_hand() -> None:
    assert latent_nll(
        torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([2.0, 0.5])
    ).item() == 0.5 * (1 + 4)


def test_image_change_is_the_difference_below_its_knee_and_the_logarithm_above() -> None:
    original = torch.zeros(3, 1, 1, 2)
    edited = torch.tensor([[0.0, 0.0], [1e-5, -1e-5], [1.0, 0.0]]).reshape(3, 1, 1, 2)
    expected = torch.tensor([0.0, 2e-5, 0.05 * math.log(21)])
    torch.testing.assert_close(image_change(edited, original, knee=0.05), expected, rtol=1e-3, atol=1e-9)


def test_a_latent_known_too_well_does_not_outweigh_the_others() -> None:
    logvar = 2 * torch.tensor([[0.1, 0.2, 0.3, 0.001]] * 5).log()
    torch.testing.assert_close(posterior_deviation(logvar), torch.tensor([0.1, 0.2, 0.3, 0.05]))


def nuisance_world(n: int = 3000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z = (y · u, u, v), y, z under 1 − y: what the label does depends on the nuisance u; no straight line does it."""
    torch.manual_seed(0)
    y, u, v = torch.randint(2, (n, 1)).float(), torch.randn(n, 1), torch.randn(n, 1)
    latents, truth = (torch.cat([side * (1 + 0.5 * u), u, v], 1) for side in (2 * y - 1, 1 - 2 * y))
    return latents, y, truth


def fitted_guide(latents: torch.Tensor, y: torch.Tensor) -> Guide:
    guide = Guide(3, FACTORS, nuisance=2, width=64, depth=2)
    guide.start(latents, torch.full_like(latents, -4.0), y)
    guide.log_dict = guide.log = lambda *_: None  # type: ignore[method-assign,assignment]  # outside a trainer
    train(guide, guide.fit_step, latents, y, 400)
    return guide


def train(guide: Guide, step: Callable[[dict[str, torch.Tensor]], torch.Tensor], latents: torch.Tensor,
          y: torch.Tensor, steps: int) -> None:  # fmt: skip
    optimizer = torch.optim.Adam(guide.parameters(), 3e-3)
    for _ in range(steps):
        rows = torch.randint(len(latents), (256,))
        batch = {"mean": latents[rows], "logvar": torch.full((256, 3), -4.0), "labels": y[rows]}
        loss = step(batch | {"factor": torch.zeros(256, dtype=torch.long)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_the_guide_learns_an_edit_that_depends_on_a_nuisance() -> None:
    latents, y, truth = (part[:500] for part in nuisance_world())
    guide = fitted_guide(*nuisance_world()[:2])
    with torch.no_grad():
        edited = guide.transport(latents, y, 1 - y)
    left, change = (edited - truth).abs().sum(), (latents - truth).abs().sum()
    straight = latents + (1 - 2 * y) * torch.tensor([2.0, 0.0, 0.0])
    assert 1 - left / change > 0.85
    assert left < 0.6 * (straight - truth).abs().sum()


def test_the_alignment_changes_the_image_less_and_still_edits() -> None:
    """Here n under y is made to mean another v than under 1 − y; only the alignment can know that v should stay."""
    latents, y, truth = nuisance_world()
    guide = fitted_guide(latents, y)
    guide.decode = lambda z: z.reshape(-1, 3, 1, 1)  # an image of three channels that shows the latents as they are
    with torch.no_grad():
        weight = guide.generator_linear.weight
        weight[2, -1] += 1.0  # p(n, y') now moves v with the label, and p still is what n is decoded by

    def outcome() -> tuple[float, float]:
        with torch.no_grad():
            edited = guide.transport(latents, y, 1 - y)
        change = image_change(guide.decode(edited), guide.decode(latents)).mean()  # type: ignore[misc]
        return change.item(), (edited[:, 0] - truth[:, 0]).abs().mean().item()

    before, _ = outcome()
    frozen = guide.generator_linear.weight.detach().clone()
    train(guide, guide.align_step, latents, y, 300)
    after, missed = outcome()
    assert after < 0.8 * before
    assert missed < 0.5, "of a change of 2: it did not get there by not editing"
    assert torch.equal(guide.generator_linear.weight, frozen), "p is what says which latents carry a label"


def test_reading_loss_wants_the_edit_and_keeps_the_rest() -> None:
    kinds = ["binary", "categorical", "continuous"]
    before = [torch.zeros(1, 1), torch.zeros(1, 2), torch.tensor([[0.5]])]
    edited = [torch.tensor([[2.0]]), torch.zeros(1, 2), torch.tensor([[1.5]])]
    wanted = [torch.ones(1, 1), torch.tensor([[0.0, 1.0]]), torch.zeros(1, 1)]

    def loss(factor: int) -> float:
        return reading_loss(edited, before, wanted, torch.tensor([factor]), kinds).item()

    softplus = math.log1p(math.exp(-2.0))  # -log sigmoid(2)
    kept_binary = 0.5 * softplus + 0.5 * (2.0 + softplus)  # cross-entropy with probability a half
    assert math.isclose(loss(0), softplus + math.log(2) + 0.5, rel_tol=1e-5)
    assert math.isclose(loss(1), kept_binary + math.log(2) + 0.5, rel_tol=1e-5)
    assert math.isclose(loss(2), kept_binary + math.log(2) + 0.5 * 1.5**2, rel_tol=1e-5)


def test_only_a_reader_lets_the_alignment_go_beyond_the_labels() -> None:
    timid = Guide(5, FACTORS, nuisance=2, width=8)
    bold = Guide(5, FACTORS, nuisance=2, width=8, reading_weight=1.0)
    last = bold.alignment[-1]
    assert isinstance(last, torch.nn.Linear) and last.out_features == 2 + 5
    assert timid.state_dict()["alignment.4.bias"].shape == (2,)
    latents, before, after = torch.randn(3, 5), torch.zeros(3, 1), torch.tensor([[1.0], [1.0], [0.0]])
    bold.spread.copy_(torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0]))
    plain = bold.transport(latents, before, after)
    with torch.no_grad():
        last.bias[2] = 5.0
    moved = bold.transport(latents, before, after) - plain
    expected = torch.zeros(3, 5)
    expected[:2, 0] = 10.0  # in units of the latents' spread; where nothing is to change, nothing does
    torch.testing.assert_close(moved, expected)
