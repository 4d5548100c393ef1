"""Read the settings of a run folder as data: they choose among what configs/ names, and cannot name other code.

`config.yaml` names the classes and functions that the commands call. A run may come from someone else, so only those
are called that the files in configs/ name; all names are checked before anything is imported.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

from models import UserError
from training.command_line import unquoted
from training.renamed import EXPERIMENTS

__all__ = ["as_text", "check_files", "follow_folder", "named_in_configs", "read_settings", "stored", "with_groups"]

CONFIGS = Path(__file__).parents[1] / "configs"
MOST_BYTES, MOST_OPEN = 2**18, 100  # bytes of a file of settings, which has a few thousand, and open brackets in it
# Modules that have moved: the name that runs of earlier versions store -> the name today.
MOVED = {
    "models.encoders": "models.sd_vae",
    "models.lookup": "models.token_matrix",
    "models.diffusion": "models.stable_diffusion",
    "models.embedding": "models.word_embedding",
}
SQLITE = "sqlite:///"
PATHS = ("save_dir", "artifact_location", "tracking_uri")  # of a logger
LOGS = (*PATHS, "name", "version")  # a path below save_dir, which may not lead out of it
BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}
KEYWORDS = ("_args_", "_partial_", "_recursive_")  # Hydra's, which no file in configs/ uses


def stored(file: Path) -> Any:
    """Load the settings stored in a run folder, in OmegaConf's struct mode: no key can be added.

    Returns:
        OmegaConf's DictConfig, of which objects may be built.

    Raises:
        UserError: the file is missing or damaged, a section is named as a path, or a value names a class or function
            that configs/ does not name.
    """
    settings = read_settings(file)
    known = named_in_configs()
    for section in (*settings, settings.get("model", {}).get("name", "")):  # files are named after them
        if not re.fullmatch(r"[\w-]*", str(section)):
            raise UserError(f"Expected names of letters in {file}, got {shown(section)}: it is not the file of a run.")
    for place, name in names(OmegaConf.to_container(settings)):
        if not isinstance(name, str) or name not in known.get(place.split(".")[0], known[""]):
            raise UserError(
                f"Expected {file} to name what files in configs/ name, got {place}={shown(name)}: a run folder is "
                "data, so no other code is run from it; if this is your own code, name it in a file of configs/."
            )
    return settings


def read_settings(file: Path) -> Any:
    """Load the settings stored in a run folder to show or compare them; objects are built from `stored` alone.

    Values are texts and numbers: what looks like an interpolation, as in a label called `${a}`, stays as it is. The
    names of earlier versions are replaced by those of today.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes")
        text, loader = file.read_text("utf-8"), get_yaml_loader()  # it reads numbers as OmegaConf writes them
        if max(accumulate(BRACKETS.get(character, 0) for character in text), default=0) > MOST_OPEN:
            raise ValueError("nested brackets")  # for which YAML takes hours
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
            raise ValueError("references within YAML")  # a few lines of them stand for gigabytes
        content = yaml.load(text, Loader=loader)
        if not isinstance(content, dict) or not content:
            raise ValueError("no settings")
        follow_moves(content)
        settings = OmegaConf.create(as_text(content))
    except Exception as error:  # YAML, its decoding, OmegaConf and the disk each raise their own kind
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"Expected a run's settings in {file}, got a damaged file ({reason}): choose another run_dir=."
        ) from error
    OmegaConf.set_struct(settings, True)
    return settings


def as_text(value: Any) -> Any:
    r"""Escape `${` in all texts of nested settings, so that OmegaConf returns them as they are.

    >>> as_text({"name": "${a}"})
    {'name': '\\${a}'}
    """
    if isinstance(value, dict):
        return {key: as_text(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [as_text(entry) for entry in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def follow_moves(settings: dict[Any, Any]) -> None:
    """Update the settings of an older run in place: moved classes, a renamed experiment, the model's pipeline."""
    move_targets(settings)
    groups, model = settings.get("groups"), settings.get("model")
    if isinstance(groups, dict) and groups.get("experiment") in EXPERIMENTS:
        groups["experiment"] = EXPERIMENTS[groups["experiment"]]
    known = {file.stem for file in (CONFIGS / "model").glob("*.yaml")}
    if isinstance(model, dict) and "pipeline" not in model and model.get("name") in known:
        configured: Any = OmegaConf.load(CONFIGS / "model" / f"{model['name']}.yaml")
        parents = [OmegaConf.load(CONFIGS / "model" / f"{name}.yaml") for name in configured.get("defaults", [])
                   if isinstance(name, str) and name != "_self_"]  # fmt: skip
        model["pipeline"] = OmegaConf.merge(*parents, configured).model.pipeline


def move_targets(value: Any) -> None:
    """Replace the modules of `MOVED` in the `_target_` of nested settings, in place."""
    for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        move_targets(entry)
    if isinstance(value, dict) and isinstance(target := value.get("_target_"), str):
        module, _, name = target.rpartition(".")
        value["_target_"] = f"{MOVED[module]}.{name}" if module in MOVED else target


def names(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each name of code in nested settings, and each of Hydra's keywords that calls it in another way.

    >>> list(names({"data": {"_target_": "a.b"}, "model": {"pipeline": "c.d", "name": "iin"}}))
    [('data._target_', 'a.b'), ('model.pipeline', 'c.d')]
    """
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        inner = f"{place}.{key}" if place else str(key)
        if key == "_target_" or key in KEYWORDS or inner == "model.pipeline":
            yield inner, entry if key not in KEYWORDS else {key: entry}
        yield from names(entry, inner)


@cache
def named_in_configs() -> dict[str, frozenset[str]]:
    """Map each section of the settings to the names of the classes, functions and pipelines that configs/ has for it.

    The section "" has all of them.
    """
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, ten times as fast, where it is there
    found: dict[str, set[str]] = {"": set()}
    for file in CONFIGS.rglob("*.yaml"):
        text = file.read_text("utf-8")
        is_section = file.parent != CONFIGS and not text.startswith("# @package _global_")
        for place, name in names(yaml.load(text, Loader=loader)):
            section = file.parent.name if is_section else place.split(".")[0]
            found.setdefault(section, set()).add(str(name))
            found[""].add(str(name))
    found["prompt_encoder"] = found["prompt_encoder"] | found["encoder"]
    return {section: frozenset(known) for section, known in found.items()}


def shown(name: Any) -> str:
    text = " ".join(str(name).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def with_groups(arguments: Sequence[str]) -> list[str]:
    """Add to a command line with ckpt= the groups that its run was composed of, so that it can change their settings.

    Only files in configs/ are chosen, whatever the run names.
    """
    files = [unquoted(argument.partition("=")[2]) for argument in arguments if argument.startswith("ckpt=")]
    try:
        groups = read_settings(Path(files[-1]).expanduser().resolve().parents[1] / "config.yaml").get("groups")
    except (IndexError, UserError):
        return [*arguments]
    given = {argument.partition("=")[0].lstrip("+~") for argument in arguments}
    chosen = {name: file for name, file in (groups or {}).items() if name not in given and isinstance(file, str)}
    known = {(file.parent.name, file.stem) for file in CONFIGS.glob("*/*.yaml")}
    return [*arguments, *(f"{name}={file}" for name, file in chosen.items() if (name, file) in known)]


def check_files(settings: Any, given: Collection[str]) -> None:
    """Refuse to go on with a TorchScript file that only the stored settings name: it is a program.

    `given` are the names of the settings on the command line. ONNX files are data.

    Raises:
        UserError: judge_model or identity_model names such a file, and the command line does not.
    """
    for key in ("judge_model", "identity_model"):
        value = settings.get(key)
        is_one = not isinstance(value, DictConfig)
        named = {key: value} if is_one else {f"{key}.{name!s}": file for name, file in value.items()}
        for name, file in named.items():
            if file not in (None, "dlib") and name not in given and Path(str(file)).suffix.lower() != ".onnx":
                raise UserError(
                    f"Expected {name}={file} on this command line too, got it only from the run folder, which is data, "
                    f"while a TorchScript file is a program: add {name}={file} if you know the file, or {key}=null."
                )


def follow_folder(settings: Any, folder: Path, given: Collection[str]) -> None:
    """Let the stored logger write into the run folder, which may have been moved, and nowhere else.

    `given` are the names of the settings on the command line.

    Raises:
        UserError: the logger writes elsewhere or has further options, and the command line does not name them.
    """
    before, logger = str(settings.get("run_dir") or ""), settings.get("logger") or {}
    known = {key for file in (CONFIGS / "logger").glob("*.yaml") for key in OmegaConf.load(file) or {}}
    for key, value in logger.items():
        leads_out = False
        if key in LOGS and isinstance(value, str):
            place = value.removeprefix(SQLITE)
            if before and (place == before or place.startswith(f"{before}/")):
                logger[key] = value.replace(before, str(folder), 1)
                place = logger[key].removeprefix(SQLITE)
            within = Path(place).expanduser() if key in PATHS else folder / place
            below = within.resolve().is_relative_to(folder)
            leads_out = not below or "://" in place
        if (leads_out or key not in known) and f"logger.{key}" not in given:
            raise UserError(
                f"Expected a logger that writes into {folder}, got logger.{key}={shown(value)} from its config.yaml: "
                f"add logger.{key}={shown(value)} to the command line if you want that."
            )
