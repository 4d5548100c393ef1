import pytest
import torch

from models import UserError
from models.composition import KNEE, compose, default_composition


def pictures(*values: float, size: int = 4) -> torch.Tensor:
    return torch.stack([torch.full((3, size, size), value) for value in values])


def test_what_the_decoder_did_not_change_comes_back_bit_for_bit() -> None:
    photograph = torch.rand(2, 3, 7, 5)
    decoded = torch.rand(2, 3, 4, 4)
    for how in ("blend", "threshold", "add"):
        assert torch.equal(compose(photograph, decoded, decoded, how), photograph)


def test_the_change_is_added_to_the_photograph_and_clamped() -> None:
    composed = compose(pictures(0.5, 0.9), pictures(0.2, 0.2), pictures(0.4, 0.5), "add")
    torch.testing.assert_close(composed, pictures(0.7, 1.0))


def test_small_changes_fall_under_the_threshold_and_large_ones_shrink_by_it() -> None:
    composed = compose(
        pictures(0.5, 0.5, 0.5), pictures(0.2, 0.2, 0.2), pictures(0.2 + KNEE / 2, 0.4, 0.1), "threshold"
    )
    torch.testing.assert_close(composed, pictures(0.5, 0.7 - KNEE, 0.4 + KNEE))


def test_the_default_depends_on_whether_latents_have_places() -> None:
    assert default_composition((4, 16, 16)) == "replace" and default_composition((256,)) == "blend"


def test_replace_takes_the_decoded_edit_from_a_smaller_change_on() -> None:
    photograph, before = torch.full((1, 3, 32, 32), 0.5), torch.full((1, 3, 32, 32), 0.45)
    after = before + 0.08
    torch.testing.assert_close(compose(photograph, before, after, "replace"), after, atol=1e-6, rtol=0)
    assert (compose(photograph, before, after, "blend") - (photograph + 0.04)).abs().max() < 0.02


@pytest.mark.parametrize("how", ["blend", "replace"])
def test_where_the_change_is_strong_the_decoded_edit_takes_the_photographs_place(how: str) -> None:
    """Glasses taken off: their outlines, which the auto-encoder had lost, do not stay."""
    torch.manual_seed(0)
    photograph = 0.5 + 0.1 * torch.rand(1, 3, 64, 64)
    photograph[:, :, 20:24, 16:48] = 0.0  # a frame, which the reconstruction holds only half of
    reconstruction = torch.full_like(photograph, 0.55)
    reconstruction[:, :, 19:25, 16:48] = 0.3
    edited = torch.full_like(photograph, 0.55)
    blended = compose(photograph, reconstruction, edited, how)
    added = compose(photograph, reconstruction, edited, "add")
    assert (
        (blended[:, :, 20:24, 20:44] - 0.55).abs().max() < 0.02 < 0.2 < (added[:, :, 20:24, 20:44] - 0.55).abs().min()
    )
    assert torch.equal(blended[:, :, 40:], photograph[:, :, 40:])


def test_none_is_the_decoded_edit_at_the_photographs_own_size() -> None:
    composed = compose(torch.rand(1, 3, 8, 6), torch.rand(1, 3, 4, 4), pictures(0.3), "none")
    torch.testing.assert_close(composed, torch.full((1, 3, 8, 6), 0.3))


def test_an_unknown_composition_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="compose") as error:
        compose(pictures(0.5), pictures(0.5), pictures(0.5), "paste")
    assert "\n" not in str(error.value)
