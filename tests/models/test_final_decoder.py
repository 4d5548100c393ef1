import pytest
import torch

from models.final_decoder import FinalDecoder
from models.vae import VAE


@pytest.mark.parametrize("size", [16, 64])
def test_it_decodes_what_is_shown_and_the_first_decoder_what_is_drafted(size: int) -> None:
    torch.manual_seed(0)
    vae = VAE(size=size, latent=6, width=4, final_width=4).eval()
    plain = VAE(size=size, latent=6, width=4).eval()
    assert isinstance(vae.final, FinalDecoder) and plain.final is None
    plain.load_state_dict({name: value for name, value in vae.state_dict().items() if not name.startswith("final.")})
    latents = torch.randn(3, 6)
    shown = vae.decode(latents)
    assert shown.shape == (3, 3, size, size) and 0 <= shown.min() and shown.max() <= 1
    torch.testing.assert_close(vae.draft(latents), plain.decode(latents))
    assert (shown - vae.draft(latents)).abs().max() > 1e-3


def test_the_first_training_leaves_it_alone() -> None:
    vae = VAE(size=16, latent=6, width=4, final_width=4)
    vae.trainer = type("Trainer", (), {"estimated_stepping_batches": 10})()
    trained = {id(p) for group in vae.configure_optimizers()["optimizer"].param_groups for p in group["params"]}  # type: ignore[index,union-attr,call-overload]
    assert vae.final is not None and not trained & {id(p) for p in vae.final.parameters()}
