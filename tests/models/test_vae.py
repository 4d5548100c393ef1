import math

import pytest
import torch

from models import UserError, check_choice
from models.gaussian import kl_divergence
from models.vae import VAE, reconstruction_nll


def test_kl_is_torchs() -> None:
    mean, logvar = torch.randn(5, 3), torch.randn(5, 3)
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mean, logvar), expected)


@pytest.mark.parametrize(
    ("likelihood", "density"), [("gaussian", torch.distributions.Normal), ("laplace", torch.distributions.Laplace)]
)
def test_reconstruction_nll_is_the_density_up_to_its_constant(likelihood: str, density: type) -> None:
    x, y = torch.rand(4, 3, 2, 2), torch.rand(4, 3, 2, 2)
    constant = math.log(0.3 * math.sqrt(2 * math.pi)) if likelihood == "gaussian" else math.log(2 * 0.3)
    expected = -density(y, 0.3).log_prob(x).flatten(1).sum(1) - 12 * constant
    torch.testing.assert_close(reconstruction_nll(x, y, likelihood, 0.3), expected, atol=1e-4, rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [16, 64])
def test_encodes_and_decodes(size: int) -> None:
    vae = VAE(size=size, latent=6, width=4).eval()
    images = torch.randint(256, (3, 3, size, size), dtype=torch.uint8)
    mean, logvar = vae.encode(images)
    decoded = vae.decode(mean)
    assert mean.shape == logvar.shape == (3, 6)
    assert decoded.shape == images.shape and 0 <= decoded.min() and decoded.max() <= 1
    assert (logvar < -2).all(), "the posterior starts narrow"


def test_identity_follows_the_weights() -> None:
    torch.manual_seed(0)
    vae = VAE(size=16, latent=4, width=4)
    before = vae.identity
    assert vae.identity == before
    with torch.no_grad():
        vae.encoder.head.bias[0] += 1
    assert vae.identity["sha256"] != before["sha256"]


def test_a_size_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="power of two and at least 16, got 48"):
        VAE(size=48)


def test_a_posterior_that_became_too_narrow_can_widen_again() -> None:
    vae = VAE(size=16, latent=4, width=4).eval()
    with torch.no_grad():
        vae.encoder.head.bias[4:] = -20.0
    logvar = vae.encode(torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8))[1]
    kl_divergence(torch.zeros_like(logvar), logvar).sum().backward()
    assert (logvar == -10).all()
    expected = -0.5 * (1 - math.exp(-10)) * 2  # of the KL term at the bound, two images: a step against it widens
    gradient = vae.encoder.head.bias.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[4:], torch.full((4,), expected))


def test_a_word_that_a_setting_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"Expected vae\.likelihood to be one of gaussian, laplace, got gausian"):
        check_choice("vae.likelihood", "gausian", ("gaussian", "laplace"))
    check_choice("iin.optimizer", None, (None, "muon", "adam"))
