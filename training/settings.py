"""Resolve the settings of a run: those of the command line, checked against those stored in its folder.

A run folder has one set of settings. The same command resumes the run; other settings need another folder. `ckpt=`
resumes with the settings stored in the folder, of which those may change that no finished stage depends on.
"""

import inspect
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from models import HIGHEST_SEED, UserError, check_choice, check_whole, near_names
from models.composition import COMPOSITIONS
from training.arguments import TEXTS, check_targets, take_as_typed
from training.command_line import as_typed
from training.places import DATA_PLACES, TABLES, check_links, take_cache, with_absolute_paths
from training.run_files import read_manifest
from training.stored_settings import check_files, follow_folder, read_settings, stored

__all__ = ["Settings", "resolve_settings", "differences", "shortened"]

Settings: TypeAlias = Any  # OmegaConf's DictConfig, a class that the shape checks warn of
# Paths change no number; `groups` only records which configuration files the values came from.
PLACES = ("ckpt", "run_dir", "runs_dir", "cache_dir", "data.cache_dir", "groups")
FREE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "measured_images", "identity_model",
        "judge_model", "compose", "compile")  # fmt: skip
REFERRED = ("image_size",)  # other settings interpolate it
# Mappings with free keys.
MAPPINGS = (
    "prompts",
    "judge_model",
    "data.correlate",
    "data.factors",
    "data.kinds",
    "prompt_encoder",
)  # their keys are free
PAIRS = "datamodules.captions.pairs"  # pairs of an image and a text, which only model=mds reads
SMALLEST = {"layer_epochs": 0}  # the smallest value of a whole number of a stage, where that is not 1


def resolve_settings(
    config: Settings, overrides: Sequence[str] = (), choices: Mapping[str, Any] | None = None
) -> Settings:
    """Return the settings of the run that the command line describes: a new run, or with ckpt= a stopped one.

    `overrides` are the arguments of the command line; `choices` maps each of Hydra's groups to the chosen file and is
    stored with the run as `groups`.

    Raises:
        UserError: the run folder has other settings; a setting that cannot change; a number out of range.
    """
    groups = {group: choice for group, choice in (choices or {}).items() if "/" not in group}
    take_as_typed(config, overrides)
    if config.get("ckpt") is not None:
        settings = resumed(str(config.ckpt), overrides, groups)
    else:
        settings = config
        with open_dict(settings):
            settings.groups = groups
        with_absolute_paths(settings)
        file = Path(settings.run_dir) / "config.yaml"
        before = read_settings(file) if file.is_file() else settings
        with_absolute_paths(before)  # those of runs of earlier versions are as they were typed
        changed = moved_apart(differences(before, settings), file.parent)
        if changed:
            raise UserError(
                f"Expected the settings that {file.parent} was started with, got {listed(changed)}: choose another "
                "run_dir= for a new run, or go on with that one by ckpt=."
            )
    check_added(settings, overrides)
    check_numbers(settings)
    check_targets(settings)
    return settings


def check_added(settings: Settings, overrides: Sequence[str]) -> None:
    """Refuse a setting added by `+key=` that nothing reads: Hydra would accept it and it would have no effect.

    Allowed are entries of `prompts`, `judge_model` and the other mappings with free keys, constructor arguments of a
    `_target_`, and settings that other settings interpolate.

    Raises:
        UserError: no setting has that name; the message suggests similar names.
    """
    for argument in overrides:
        name = argument.split("=")[0].lstrip("+")
        if not argument.startswith("+") or name in REFERRED or name.startswith("hydra.") or "=" not in argument:
            continue
        *path, key = name.split(".")
        if path and (path[0] in MAPPINGS or ".".join(path) in MAPPINGS):
            continue
        parent = OmegaConf.select(settings, ".".join(path)) if path else settings
        known = [str(other) for other in parent if str(other) != key] if isinstance(parent, DictConfig) else []
        if isinstance(parent, DictConfig) and "_target_" in parent:
            known = list(inspect.signature(get_object(str(parent._target_))).parameters)
            if key in known:
                continue
        place = f" in {'.'.join(path)}" if path else ""
        raise UserError(
            f"Expected a setting that is read{place}, got {argument}: leave the + out and check the name."
            f"{near_names(key, known)}"
        )


def resumed(ckpt: str, overrides: Sequence[str], groups: Mapping[str, Any]) -> Settings:
    """Return the settings of the run that the checkpoint belongs to, overridden by those of this command line."""
    folder = Path(ckpt).expanduser().resolve().parent.parent
    if not Path(ckpt).expanduser().is_file() or not (folder / "config.yaml").is_file():
        raise UserError(f"Expected ckpt= to be a file in the checkpoints folder of a run, got {ckpt}: check the path.")
    before, settings = stored(folder / "config.yaml"), stored(folder / "config.yaml")
    given: set[str] = set()  # the names of the settings on this command line
    for argument in overrides:
        override = parsed(argument)
        name = override.key_or_group
        value: Any = as_typed(argument.partition("=")[2]) if name in TEXTS else override.value()
        if name == "ckpt":
            continue
        if name in groups:
            chosen = before.get("groups", {}).get(name)
            if value != chosen:
                chosen = "null" if chosen is None else chosen
                raise UserError(
                    f"Expected {name}={chosen}, as {folder} was started with, got {argument}: leave it out, or start "
                    "another run without ckpt=."
                )
        elif name == "run_dir":
            if Path(value).expanduser().resolve() != folder:
                raise UserError(
                    f"Expected run_dir={folder}, the run that ckpt= goes on with, got {value}: leave it out."
                )
        else:
            put(settings, name, value, argument)
            given |= flat({name: value}).keys()
    take_as_typed(settings, overrides)
    check_files(settings, given)
    follow_folder(settings, folder, given)
    settings.run_dir = str(folder)
    if "cache_dir" not in given:
        take_cache(settings)
    check_links(folder)
    if "cache_dir" in settings.get("data", {}) and settings.get("cache_dir") != before.get("cache_dir"):
        settings.data.cache_dir = settings.cache_dir  # the stored value is resolved and no longer follows cache_dir
    for each in (before, settings):
        with_absolute_paths(each)
    changed = moved_apart(differences(before, settings), folder)
    fixed = {key: values for key, values in changed.items() if not changeable(key, settings, folder)}
    if fixed:
        raise UserError(
            f"Expected the settings that {folder} was started with, got {listed(fixed)}, on which what is trained "
            "there depends: leave that out, or start another run without ckpt=."
        )
    return settings


def parsed(argument: str) -> Any:
    """Parse one argument of the command line as Hydra does, into a name, a type and a value."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise UserError(f"Expected key=value, got {argument!r}: quote values with special characters.") from error
    if override.type is not OverrideType.CHANGE or override.package is not None or override.is_sweep_override():
        raise UserError(f"Expected key=value beside ckpt=, got {argument!r}: a run's settings are changed one by one.")
    return override


def put(settings: Settings, name: str, value: Any, argument: str) -> None:
    """Change a setting that exists; an unknown name is an error."""
    known = flat(settings)
    try:
        OmegaConf.update(settings, name, value, merge=True)
    except OmegaConfBaseException as error:
        raise UserError(
            f"Expected a setting that the run of ckpt= has, got {argument!r}: check its name.{near_names(name, known)}"
        ) from error


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Map each dotted name to its value; a list is one value."""
    if not isinstance(settings, dict):  # resolved and through YAML, as a run's file stores them
        settings = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(settings, resolve=True)))
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def differences(before: Settings, now: Settings) -> dict[str, tuple[Any, Any]]:
    """Map the name of each setting that differs to its values (before, now); paths are left out."""
    a, b = flat(before), flat(now)
    keys = [key for key in {**a, **b} if key not in PLACES and not key.startswith("groups.")]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def moved_apart(changed: Mapping[str, tuple[Any, Any]], folder: Path) -> dict[str, tuple[Any, Any]]:
    """Leave out where the data lie, if the run has recorded their content, by which data in another place are known.

    The same holds for tables of labels, if it has recorded the labels.
    """
    recorded = read_manifest(folder).get("data") or {}
    known = (*DATA_PLACES, *(TABLES if "people" in recorded else ())) if "fingerprint" in recorded else ()
    return {key: values for key, values in changed.items() if key.removeprefix("data.") not in known}


def listed(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """List changed settings for an error message: `seed=1 (there 0)`."""
    words = {key: ["null" if value is None else value for value in values] for key, values in changed.items()}
    return ", ".join(f"{key}={now} (there {before})" for key, (before, now) in words.items())


def of_pipeline(settings: Settings, constant: str) -> Mapping[str, Any]:
    """Return a constant of the module that the model's pipeline is in, empty where it has none.

    `CHANGEABLE` maps a stage's checkpoint to the settings that may still change while there is no such file, `MINIMUM`
    a whole number among the settings to the smallest one that makes sense.
    """
    pipeline = OmegaConf.select(settings, "model.pipeline")
    return {} if pipeline is None else getattr(import_module(pipeline.rpartition(".")[0]), constant, {})


def changeable(key: str, settings: Settings, folder: Path) -> bool:
    """Tell whether a run may continue with this setting changed: no stage that depends on it is finished."""
    stages = of_pipeline(settings, "CHANGEABLE")
    depends = [stage for stage, keys in stages.items() if any(f"{key}.".startswith(f"{name}.") for name in keys)]
    return (
        key.split(".")[0] in ("judge_model", "logger", "callbacks")
        or key in FREE
        or bool(depends)
        and not any((folder / "checkpoints" / f"{stage}.ckpt").is_file() for stage in depends)
    )


def shortened(settings: Settings) -> str:
    """Return the warning about a run that was trained for less than its settings need, empty for every other run."""
    scale = (settings.get("trainer") or {}).get("scale")
    if not isinstance(scale, int | float) or scale >= 1:
        return ""
    return f"QUICK RUN: it was trained for {scale:g} of the steps that it needs, so its numbers mean nothing."


def check_compile(wanted: Any) -> None:
    """Refuse compile=true where there is no compiler that torch.compile could call."""
    if wanted not in (True, False):
        raise UserError(f"Expected compile to be true or false, got {wanted!r}.")
    if wanted and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise UserError("Expected a C++ compiler for compile=true, got none: install g++, or leave it out.")


def stages(settings: Settings) -> list[tuple[str, Settings]]:
    """Return the trainer's settings of each stage by its name."""
    trainer = settings.get("trainer") or {}
    return [(name, section) for name, section in trainer.items() if isinstance(section, DictConfig)]


def whole_numbers(settings: Settings) -> dict[str, int]:
    """Return the minimum of every setting that is a whole number."""
    trained = {
        f"trainer.{stage}.{key}": SMALLEST.get(str(key), 1)
        for stage, section in stages(settings)
        for key in section
        if key != "clip"
    }
    return {"seed": 0, "measured_images": 1} | trained | dict(of_pipeline(settings, "MINIMUM"))


def check_numbers(settings: Settings) -> None:
    """Check the numbers at the start of a run, before a late stage would fail on one of them."""
    for key, least in whole_numbers(settings).items():
        value = OmegaConf.select(settings, key, default=least)
        if value is None and key == "measured_images":  # the default then depends on the data
            continue
        check_whole(key, value, least)
    if settings.get("seed", 0) > HIGHEST_SEED:
        raise UserError(f"Expected seed to be at most {HIGHEST_SEED}, got {settings.seed}: choose a smaller one.")
    for stage, section in stages(settings):
        clip = section.get("clip")
        if clip is not None and (type(clip) not in (int, float) or not clip > 0):
            raise UserError(f"Expected trainer.{stage}.clip to be null or a positive number, got {clip!r}.")
    check_choice("compose", OmegaConf.select(settings, "compose"), (None, *COMPOSITIONS))
    for key in ("trainer.devices", "trainer.num_nodes"):
        if (value := OmegaConf.select(settings, key, default=1)) != 1:
            raise UserError(
                f"Expected {key}=1, as a model is trained on one device, got {value!r}: leave it out; features are "
                "computed on several by python -m evaluation.extract."
            )
    check_compile(settings.get("compile", False))
    scale = OmegaConf.select(settings, "trainer.scale")
    if scale is not None and (type(scale) not in (int, float) or not 0 < scale < float("inf")):
        raise UserError(f"Expected trainer.scale to be a positive number, got {scale!r}.")
    bf16 = OmegaConf.select(settings, "trainer.bf16")
    if bf16 not in (None, True, False):
        raise UserError(f"Expected trainer.bf16 to be true, false or null, got {bf16!r}.")
    model = OmegaConf.select(settings, "model.name")
    if OmegaConf.select(settings, "data._target_") == PAIRS and model != "mds":
        raise UserError(f"Expected model=mds for data=pairs, got model={model}: give it the images or the texts alone.")
