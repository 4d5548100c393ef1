"""The encoder of photographs where the command line names none: a pretrained one where its weights can be had.

A VAE that is trained from scratch on a few thousand faces loses what is to be edited. Nothing is left undecided: the
run's config.yaml names the encoder, and ckpt= and the commands on finished runs read it there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose

from models.sd_vae import missing_weights
from training.settings import Settings, stored

__all__ = ["with_encoder"]

DATA = ("celeba", "folder")
PREFERRED, FALLBACK = "taesd", "vae"
SIDE = 128  # pixels, at which the preferred one keeps a face; at 64 its 256 latents do not
DIVISOR = 8
OF_THE_VAE = ("encoder.", "vae.", "vae=", "trainer.vae")  # settings that choose it without naming it


def with_encoder(
    config: Settings, overrides: Sequence[str], choices: Mapping[str, Any]
) -> tuple[Settings, Mapping[str, Any]]:
    """The configuration and the choices of its groups, with the pretrained encoder where nothing speaks against it.

    A line says which encoder it is, and of the VAE what is lost.
    """
    if not undecided(config, overrides, choices):
        return config, choices
    begun = Path(config.run_dir) / "config.yaml"
    before = stored(begun).get("groups", {}).get("encoder") if begun.is_file() else None
    if before is not None and before != PREFERRED:
        return config, choices
    # Of the VAE there is no image_size; of the other there is, and what is there is not added.
    given = [o.removeprefix("+") if o.startswith("+image_size=") else o for o in overrides]
    other = compose("train", [*given, f"encoder={PREFERRED}"])
    small = other.data.size < SIDE or other.data.size % DIVISOR
    reason = f"encoder={PREFERRED} needs {SIDE} px or more, a multiple of {DIVISOR}" if small else None
    if before is None and (reason := reason or missing_weights(other.encoder.weights)):
        print(lost(choices["data"], config.data.size, reason))
        return config, choices
    print(f"data={choices['data']}: encoder={PREFERRED} at {other.data.size} px; encoder={FALLBACK} trains a VAE.")
    return other, {**choices, "encoder": PREFERRED}


def undecided(config: Settings, overrides: Sequence[str], choices: Mapping[str, Any]) -> bool:
    """Tell whether photographs are to be edited and no encoder is chosen."""
    names = [override.lstrip("+~") for override in overrides]
    named = any(name.startswith(("encoder=", "encoder@", *OF_THE_VAE)) for name in names)
    return (
        choices.get("data") in DATA
        and choices.get("model") == "iin"
        and choices.get("encoder") == FALLBACK
        and choices.get("experiment") is None
        and config.get("ckpt") is None
        and not named
    )


def lost(data: str, size: int, reason: str) -> str:
    return (
        f"data={data}: a VAE is trained from scratch at {size} px, which loses glasses and the person, as {reason}; "
        f"encoder={PREFERRED}, from the hub or from a folder named by {PREFERRED.upper()}_WEIGHTS, keeps them."
    )
