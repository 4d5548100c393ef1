"""Check the arguments that a configuration gives to classes and functions, before any of them is called.

The annotations of a constructor are the description of its settings, and pydantic checks values against them. So a
number out of range is refused at the start of a run and not when its stage begins.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from models import Count, UserError
from training.command_line import as_typed, typed_values

__all__ = ["check_arguments", "check_targets", "described", "take_as_typed"]

STRICT = ConfigDict(strict=True, allow_inf_nan=False)  # no text is taken as a number, no true as 1
TEXTS = ("ckpt", "run_dir", "runs_dir", "cache_dir", "identity_model", "label", "against")  # outside of a _target_
# Settings that are no argument of a `_target_` and that no pipeline checks before the data are read.
OTHERS: dict[str, Any] = {
    "pairs.bins": Count,
    "pairs.decorrelate": bool,
    "prompt_confidence": Annotated[float, Ge(0.5), Le(1)],
    "head_input": Literal["features", "codes"],
    "fit_on": Literal["train", "all"],
    "words": Count,
    "length": Count,
}


def bounds(conditions: Iterable[Any]) -> str:
    """Describe in words the bounds of a number.

    >>> bounds([Ge(0), Lt(1)])
    ' from 0 to less than 1'
    """
    least, most, above, below = (
        next((getattr(each, name) for each in conditions if isinstance(each, kind)), None)
        for name, kind in (("ge", Ge), ("le", Le), ("gt", Gt), ("lt", Lt))
    )
    if least is not None and (most is not None or below is not None):
        return f" from {least} to {'less than ' if most is None else ''}{below if most is None else most}"
    lower = f" of at least {least}" if least is not None else f" above {above}" if above is not None else ""
    return f"{lower} and at most {most}" if most is not None else lower


def described(annotation: Any) -> str:
    """Describe in words the values of an annotated type.

    >>> from models import Positive
    >>> described(Positive | list[Positive])
    'a number above 0 or a list of it'
    """
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return described(arguments[0]) + bounds(arguments[1:])
    if kind is Literal:
        return " or ".join(map(str, arguments))
    if kind in (Union, UnionType):
        options = [described(option) for option in arguments]
        return " or ".join(options).replace(f"a list of {options[0]}", "a list of it")
    if kind in (list, Sequence):
        return f"a list of {described(arguments[0])}"
    return "a mapping" if kind is Mapping else words.get(annotation, getattr(annotation, "__name__", str(annotation)))


@cache
def parameters(target: str) -> dict[str, tuple[Any, Any]]:
    """Return the annotation of each parameter of a class or function, and its `TypeAdapter` where there can be one."""
    found = {}
    called = get_object(target)
    hints = get_type_hints(called.__init__ if inspect.isclass(called) else called, include_extras=True)
    for name in inspect.signature(called).parameters:
        try:
            adapter: Any = TypeAdapter(hints[name], config=STRICT)
        except (KeyError, PydanticSchemaGenerationError):  # no annotation, or one of a class of another library
            adapter = None
        found[name] = hints.get(name), adapter
    return found


def validate(place: str, value: Any, annotation: Any, adapter: Any) -> None:
    """Check a setting against its annotation by the annotation's `TypeAdapter`.

    Raises:
        UserError: the value has another type or is out of range.
    """
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise UserError(f"Expected {place} to be {described(annotation)}, got {value!r}.") from error


def check_arguments(settings: Mapping[str, Any], given: Iterable[str] = ()) -> None:
    """Check the settings of a `_target_` against the annotations of its parameters, without calling it.

    Values that are missing (`???`) and the arguments that are given otherwise are left out.

    Raises:
        UserError: a value of another type or out of range, as a negative learning rate; no parameter of that name.
    """
    target = str(settings["_target_"])
    known = parameters(target)
    values: Any = OmegaConf.to_container(settings, resolve=True) if isinstance(settings, DictConfig) else settings
    for name, value in values.items():
        annotation, adapter = known.get(str(name), (None, None))
        if adapter is None or name in given or (isinstance(value, str) and value == "???"):
            continue
        validate(settings._get_full_key(name) if isinstance(settings, DictConfig) else name, value, annotation, adapter)


def only_as_text(settings: Any, name: str, text: Any) -> bool:
    """Tell whether a parameter of a `_target_` refuses the setting's value and accepts the text that was typed."""
    adapter = parameters(str(settings["_target_"])).get(name, (None, None))[1]
    if adapter is None:
        return False
    value = settings[name]
    accepted = []
    for tried in (OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, text):
        try:
            adapter.validate_python(tried)
        except ValidationError:
            accepted.append(False)
        else:
            accepted.append(True)
    return accepted == [False, True]


def take_as_typed(settings: Any, overrides: Sequence[str]) -> None:
    """Replace, in place, numbers that Hydra's grammar made of texts on the command line, as 20261127 of 2026_11_27.

    Such a setting is one of `TEXTS`, or an argument of a `_target_` that does not accept the value that Hydra read but
    accepts the text as typed.
    """
    for name, typed in typed_values(overrides).items():
        value, text = OmegaConf.select(settings, name), as_typed(typed)
        if value is None or isinstance(value, str | DictConfig):
            continue
        section, _, key = name.rpartition(".")
        parent = OmegaConf.select(settings, section) if section else settings
        if name in TEXTS or (
            isinstance(parent, DictConfig) and "_target_" in parent and only_as_text(parent, key, text)
        ):
            OmegaConf.update(settings, name, text)


def check_targets(settings: Any) -> None:
    """Check the arguments of all modules, data sets, loggers and callbacks that the settings name, see `build`.

    A setting that is wrong for its parameter would otherwise be noticed when its stage begins, after the data is read
    and other stages are trained.

    Raises:
        UserError: see `check_arguments`.
    """
    for name, annotation in OTHERS.items():
        value = OmegaConf.select(settings, name)
        if value is not None:
            validate(name, value, annotation, TypeAdapter(annotation, config=STRICT))
    for key, section in settings.items_ex(resolve=False):
        if not isinstance(section, DictConfig) or (key == "prompt_encoder" and settings.get("prompts") is None):
            continue
        for part in (section, *(each for each in section.values() if isinstance(each, DictConfig))):
            if "_target_" in part:
                check_arguments(part)
