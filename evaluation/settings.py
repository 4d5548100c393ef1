"""The settings of a run: what the command line asks for, held against what its folder was begun with.

A run folder is of one set of settings. The same command again goes on with it; other settings are another run. `ckpt=`
takes the folder's own settings and lets those change that nothing finished depends on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from datamodules.factors import near_names
from evaluation.composition import COMPOSITIONS
from models import UserError, check_choice

__all__ = ["Settings", "asked", "differences", "shortened", "stored"]

Settings: TypeAlias = Any  # OmegaConf's DictConfig, a class that the shape checks warn of

# Where things lie changes no number; `groups` only says how the values were chosen.
PLACES = ("ckpt", "run_dir", "runs_dir", "cache_dir", "data.cache_dir", "groups")
FREE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "measured_images", "identity_model",
        "judge_model", "compose")  # fmt: skip
# The settings that a stage may go on with changed, by the checkpoint that says that it is finished.
STAGES = {
    "vae": ("vae.learning_rate", "trainer.vae", "trainer.final_decoder", "trainer.bf16", "trainer.scale"),
    "guide": (
        "guide.learning_rate",
        "trainer.guide",
        "spatial_guide.learning_rate",
        "trainer.spatial_guide",
        "trainer.scale",
    ),
    "last": ("iin.learning_rate", "trainer.iin", "trainer.reading", "trainer.spatial_iin", "trainer.scale"),
}
PAIRS = "datamodules.captions.pairs"  # whose rows have two sides
OPEN = ("measured_images",)  # null: what the data are decides
LEAST = {  # whole numbers
    "seed": 0, "measured_images": 1, "trainer.vae.steps": 1, "trainer.vae.batch_size": 1,
    "trainer.final_decoder.steps": 1, "trainer.final_decoder.batch_size": 1, "vae.final_width": 0,
    "trainer.guide.batch_size": 1, "trainer.iin.steps": 1, "trainer.iin.batch_size": 1, "seeds": 1,
    "trainer.autoencoder.epochs": 1, "trainer.autoencoder.steps": 1, "trainer.autoencoder.layer_epochs": 0,
    "trainer.autoencoder.batch_size": 1, "trainer.dec.steps": 1, "trainer.dec.interval": 1, "trainer.dec.batch_size": 1,
    "trainer.turtle.steps": 1, "trainer.turtle.batch_size": 1, "trainer.temi.steps": 1, "trainer.temi.batch_size": 1,
    "turtle.heads": 1, "temi.heads": 1, "temi.hidden": 1, "temi.neighbours": 1, "trainer.mds.epochs": 1,
    "trainer.mds.steps": 1, "trainer.mds.batch_size": 2, "trainer.matryoshka.epochs": 1, "trainer.matryoshka.steps": 1,
    "trainer.matryoshka.batch_size": 2, "trainer.sae.steps": 1, "trainer.sae.batch_size": 1, "sae.expansion": 1,
    "sae.dead_after": 1, "trainer.embedding.epochs": 1, "trainer.embedding.patience": 1,
    "trainer.embedding.batch_size": 1, "words": 1, "length": 1, "trainer.spatial_guide.steps": 1,
    "trainer.spatial_guide.batch_size": 1, "trainer.reading.steps": 1, "trainer.reading.batch_size": 1,
    "trainer.spatial_iin.steps": 1, "trainer.spatial_iin.batch_size": 1, "spatial_guide_edits": 1,
}  # fmt: skip


def asked(config: Settings, overrides: Sequence[str] = (), choices: Mapping[str, Any] | None = None) -> Settings:
    """The settings of the run that the command line asks for, a new one's or, with ckpt=, a stopped one's.

    `overrides` are the command line's, `choices` what Hydra's groups are set to, stored with the run as `groups`.

    Raises:
        UserError: the run folder is of other settings; a setting that cannot change; a number out of range.
    """
    groups = {group: choice for group, choice in (choices or {}).items() if "/" not in group}
    if config.get("ckpt") is not None:
        settings = resumed(str(config.ckpt), overrides, groups)
    else:
        settings = config
        with open_dict(settings):
            settings.groups = groups
        file = Path(settings.run_dir) / "config.yaml"
        changed = differences(stored(file), settings) if file.is_file() else {}
        if changed:
            raise UserError(
                f"Expected the settings that {file.parent} was begun with, got {told(changed)}: choose another "
                "run_dir= for a new run, or go on with that one by ckpt=."
            )
    check_numbers(settings)
    return settings


def resumed(ckpt: str, overrides: Sequence[str], groups: Mapping[str, Any]) -> Settings:
    """The settings of the run that the checkpoint belongs to, with this command line's on top."""
    folder = Path(ckpt).expanduser().resolve().parent.parent
    if not Path(ckpt).expanduser().is_file() or not (folder / "config.yaml").is_file():
        raise UserError(f"Expected ckpt= to be a file in the checkpoints folder of a run, got {ckpt}: check the path.")
    before, settings = stored(folder / "config.yaml"), stored(folder / "config.yaml")
    for argument in overrides:
        override = parsed(argument)
        name, value = override.key_or_group, override.value()
        if name == "ckpt":
            continue
        if name in groups:
            chosen = before.get("groups", {}).get(name)
            if value != chosen:
                chosen = "null" if chosen is None else chosen
                raise UserError(
                    f"Expected {name}={chosen}, as {folder} was begun with, got {argument}: leave it out, or start "
                    "another run without ckpt=."
                )
        elif name == "run_dir":
            if Path(value).expanduser().resolve() != folder:
                raise UserError(
                    f"Expected run_dir={folder}, the run that ckpt= goes on with, got {value}: leave it out."
                )
        else:
            put(settings, name, value, argument)
    settings.run_dir = str(folder)
    if "cache_dir" in settings.get("data", {}) and settings.get("cache_dir") != before.get("cache_dir"):
        settings.data.cache_dir = settings.cache_dir  # stored resolved, so it does not follow by itself
    changed = differences(before, settings)
    fixed = {key: values for key, values in changed.items() if not changeable(key, folder)}
    if fixed:
        raise UserError(
            f"Expected the settings that {folder} was begun with, got {told(fixed)}, on which what is trained there "
            "depends: leave that out, or start another run without ckpt=."
        )
    return settings


def parsed(argument: str) -> Any:
    """One argument as Hydra reads it: its override has a name, a type and a value."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise UserError(f"Expected key=value, got {argument!r}: quote values with special characters.") from error
    if override.type is not OverrideType.CHANGE or override.package is not None or override.is_sweep_override():
        raise UserError(f"Expected key=value beside ckpt=, got {argument!r}: a run's settings are changed one by one.")
    return override


def put(settings: Settings, name: str, value: Any, argument: str) -> None:
    """Set what is there; nothing is added."""
    known = flat(settings)
    try:
        OmegaConf.update(settings, name, value, merge=True)
    except OmegaConfBaseException as error:
        raise UserError(
            f"Expected a setting that the run of ckpt= has, got {argument!r}: check its name.{near_names(name, known)}"
        ) from error


def stored(file: Path) -> Settings:
    """A run's settings, closed: no key can be added.

    Raises:
        UserError: the file is damaged.
    """
    try:
        settings = OmegaConf.load(file)
    except Exception as error:  # YAML, its decoding and the disk each raise their own kind
        settings, reason = None, str(error).strip().split("\n")[0]
    else:
        reason = "no settings"
    if not isinstance(settings, DictConfig):
        raise UserError(f"Expected a run's settings in {file}, got a damaged file ({reason}): choose another run_dir=.")
    OmegaConf.set_struct(settings, True)
    return settings


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted name; a list is one value."""
    if not isinstance(settings, dict):  # as the run's file has them, resolved
        settings = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(settings, resolve=True)))
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def differences(before: Settings, now: Settings) -> dict[str, tuple[Any, Any]]:
    """Name -> (before, now) of the settings that differ, where things lie aside."""
    a, b = flat(before), flat(now)
    keys = [key for key in {**a, **b} if key not in PLACES and not key.startswith("groups.")]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def told(changed: Mapping[str, tuple[Any, Any]]) -> str:
    words = {key: ["null" if value is None else value for value in values] for key, values in changed.items()}
    return ", ".join(f"{key}={now} (there {before})" for key, (before, now) in words.items())


def changeable(key: str, folder: Path) -> bool:
    """Whether a run may go on with this setting changed: no stage that depends on it is finished."""
    finished = {stage: (folder / "checkpoints" / f"{stage}.ckpt").is_file() for stage in STAGES}
    depends = [stage for stage, keys in STAGES.items() if any(f"{key}.".startswith(f"{name}.") for name in keys)]
    return (
        key.split(".")[0] == "judge_model"
        or key in FREE
        or bool(depends)
        and not any(finished[stage] for stage in depends)
    )


def shortened(settings: Settings) -> str:
    """What terminal and report say of a run that trained for less than its settings need, empty for every other."""
    scale = (settings.get("trainer") or {}).get("scale")
    if not isinstance(scale, int | float) or scale >= 1:
        return ""
    return f"QUICK RUN: it was trained for {scale:g} of the steps that it needs, so its numbers mean nothing."


def check_numbers(settings: Settings) -> None:
    """Refuse at once what would stop a stage that comes late."""
    for key, least in LEAST.items():
        value = OmegaConf.select(settings, key, default=least)  # of a model that the run does not have there is none
        if value is None and key in OPEN:
            continue
        if type(value) is not int or value < least:
            raise UserError(f"Expected {key} to be a whole number of at least {least}, got {value!r}.")
    check_choice("compose", OmegaConf.select(settings, "compose"), (None, *COMPOSITIONS))
    scale = OmegaConf.select(settings, "trainer.scale")
    if scale is not None and (type(scale) not in (int, float) or not 0 < scale < float("inf")):
        raise UserError(f"Expected trainer.scale to be a positive number, got {scale!r}.")
    bf16 = OmegaConf.select(settings, "trainer.bf16")
    if bf16 not in (None, True, False):
        raise UserError(f"Expected trainer.bf16 to be true, false or null, got {bf16!r}.")
    model = OmegaConf.select(settings, "model.name")
    if OmegaConf.select(settings, "data._target_") == PAIRS and model != "mds":
        raise UserError(f"Expected model=mds for data=pairs, got model={model}: give it the images or the texts alone.")
