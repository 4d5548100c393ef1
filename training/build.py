"""Build objects from the configuration: modules, data sets, devices."""

from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from models import UserError
from training import resolvers
from training.arguments import check_arguments

__all__ = ["build", "device_of", "is_trained_here", "resolvers"]

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


def device_of(config: Any) -> torch.device:
    """Return the device of all computations.

    Raises:
        UserError: an accelerator of another name, or a GPU where torch sees none.
    """
    accelerator = config.trainer.accelerator
    if accelerator not in ACCELERATORS:
        raise UserError(f"Expected trainer.accelerator to be one of {', '.join(ACCELERATORS)}, got {accelerator!r}.")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            f"Expected a GPU for trainer.accelerator={accelerator}, got none that torch sees: use auto or cpu."
        )
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def is_trained_here(config: Any) -> bool:
    """Tell whether the encoder is an auto-encoder that the run trains itself: its settings name no class to build."""
    return "_target_" not in config.encoder


def build(settings: Mapping[str, Any], **arguments: Any) -> Any:
    """Build the object that the configuration names, with these arguments.

    Raises:
        UserError: a value is missing, has the wrong type, or is refused by the constructor.
    """
    target = str(settings["_target_"])
    if isinstance(settings, DictConfig) and (missing := OmegaConf.missing_keys(settings)):
        raise UserError(f"Expected {min(missing)}=..., got none: {target} needs it.")
    check_arguments(settings, arguments)
    try:
        # Hydra would resolve interpolations in the arguments, as in a class named "${5}".
        return instantiate(settings, _partial_=True)(**arguments)
    except (InstantiationException, ValueError, TypeError, KeyError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error  # Hydra wraps all errors
        if isinstance(cause, ValueError):
            raise UserError(str(cause)) from error
        if isinstance(cause, TypeError | KeyError):  # which no annotation tells, as an unknown word
            raise UserError(
                f"Expected settings that {target} can be built with, got {type(cause).__name__}: {cause}; compare them "
                "with those in configs/."
            ) from error
        raise
