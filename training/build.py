"""Build objects from the configuration: modules, data sets, devices."""

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from models import UserError
from training import resolvers

__all__ = ["device_of", "is_trained_here", "build", "resolvers"]

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


def fits(value: Any, annotation: Any) -> bool:
    """Tell whether a setting has an annotated type; only types that a configuration can hold are checked."""
    kind = get_origin(annotation)
    if kind in (Union, UnionType):
        return any(fits(value, option) for option in get_args(annotation))
    if kind is Literal:
        return value in get_args(annotation)
    if kind is list:
        return isinstance(value, list | tuple | ListConfig)
    if annotation is float:
        return type(value) in (int, float)
    return type(value) is annotation if annotation in (int, bool, NoneType) else True


def kinds(annotation: Any) -> str:
    """Describe in words the types that `fits` accepts."""
    words = {int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
    kind = get_origin(annotation)
    if kind is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if kind in (Union, UnionType):
        return " or ".join(kinds(option) for option in get_args(annotation))
    return "a list" if kind is list else words.get(annotation, str(annotation))


def build(settings: Mapping[str, Any], **arguments: Any) -> Any:
    """Build the object that the configuration names, with these arguments.

    Raises:
        UserError: a value is missing, has the wrong type, or is refused by the constructor.
    """
    target = str(settings["_target_"])
    if isinstance(settings, DictConfig) and (missing := OmegaConf.missing_keys(settings)):
        raise UserError(f"Expected {min(missing)}=..., got none: {target} needs it.")
    for name, parameter in inspect.signature(get_object(target)).parameters.items():
        if name in settings and name not in arguments and not fits(settings[name], parameter.annotation):
            place = settings._get_full_key(name) if isinstance(settings, DictConfig) else name
            raise UserError(f"Expected {place} to be {kinds(parameter.annotation)}, got {settings[name]!r}.")
    try:
        return instantiate(settings, **arguments)
    except InstantiationException as error:  # Hydra's wrapper of all errors
        cause = error.__cause__
        if isinstance(cause, ValueError):
            raise UserError(str(cause)) from error
        if isinstance(cause, TypeError | KeyError):  # `fits` cannot foresee these: a list of texts, an unknown word
            raise UserError(
                f"Expected settings that {target} can be made with, got {type(cause).__name__}: {cause}; compare them "
                "with those in configs/."
            ) from error
        raise
