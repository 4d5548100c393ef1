"""The paths among the settings of a run: stored absolute, found again where files have moved, caches told from folders.

Paths change no number, so a run goes on where its data lie today: what identifies the data is their content.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.cache import is_cache
from models import UserError, near_names
from training.resolvers import user_cache
from training.stored_settings import as_text

__all__ = ["DATA_PLACES", "TABLES", "check_links", "take_cache", "take_places", "with_absolute_paths"]

DATA_PLACES = ("root", "path", "images", "texts")  # settings of the data that are paths
TABLES = ("attributes", "extra_attributes", "names", "labels", "vocabulary")  # of the data: a path, or a name
PERHAPS = (*(f"data.{key}" for key in TABLES),
           *(f"encoder.{key}" for key in ("weights", "path", "vocabulary", "model", "checkpoint")),
           *(f"prompt_encoder.{key}" for key in ("weights", "path", "vocabulary", "model")),
           "judge_model", "identity_model")  # fmt: skip


def absolute(value: Any, sure: bool) -> Any:
    """Return a path, or each of several, without reference to the working directory.

    Where a value may also be a name, it is a path if there is such a file with a suffix, or such a place below
    a folder.
    """
    if isinstance(value, DictConfig):
        return {key: absolute(entry, sure) for key, entry in value.items()}
    if isinstance(value, ListConfig):
        return [absolute(entry, sure) for entry in value]
    if not isinstance(value, str) or not value:
        return value
    place = Path(value).expanduser()
    is_path = sure or place.suffix and place.is_file() or "/" in value and place.exists()
    return str(place.absolute()) if is_path else value


def with_absolute_paths(settings: Any) -> None:
    """Make the paths among the settings absolute, in place, so that the data are found from any folder."""
    for name in (*(f"data.{key}" for key in DATA_PLACES), "cache_dir", "data.cache_dir", *PERHAPS):
        try:
            value = OmegaConf.select(settings, name)
        except OmegaConfBaseException:  # a setting that follows one which is not given
            continue
        found = absolute(value, name not in PERHAPS)
        if value is not None and found != value:
            OmegaConf.update(settings, name, as_text(found), merge=False)


def take_places(settings: Any, places: Mapping[str, Any]) -> None:
    """Let the stored settings of a run name the places where its data lie today, in place.

    `places` maps settings of the data, such as root or path, to paths. Loading the data checks that they are those of
    the run.

    Raises:
        UserError: no such setting, or one that is no path.
    """
    paths = [key for key in (*DATA_PLACES, *TABLES) if key in settings.get("data", {})]
    for key, value in places.items():
        if key not in paths:
            known = ", ".join(f"data.{name}=" for name in paths) or "none, as this run has no files"
            raise UserError(
                f"Expected beside run= where its data lie now ({known}), got data.{key}={value}: other settings are "
                f"those of the run.{near_names(key, paths)}"
            )
        settings.data[key] = as_text(value)
    with_absolute_paths(settings)


def take_cache(settings: Any) -> None:
    """Use the user's own cache, in place, unless the run's is marked as one of Facet's.

    A run from elsewhere names a folder that may not be there, or that holds something else.
    """
    for place in (settings, settings.get("data") or {}):
        if (stored := place.get("cache_dir")) is not None and not is_cache(Path(str(stored)).expanduser()):
            place["cache_dir"] = user_cache()


def check_links(folder: Path) -> None:
    """Check that what is written into a run folder stays in it.

    Links to checkpoints are allowed: they are read, and replaced when a new one is written.

    Raises:
        UserError: a link in the folder leads out of it.
    """
    top = folder.resolve()
    for place, folders, files in os.walk(top):
        for name in (*folders, *files):
            link = Path(place) / name
            is_checkpoint = link.suffix == ".ckpt" and not link.is_dir()
            if link.is_symlink() and not is_checkpoint and not link.resolve().is_relative_to(top):
                raise UserError(
                    f"Expected a run folder without links that lead out of it, got {link} -> {os.readlink(link)}: put "
                    "what it leads to in its place, or link the whole run folder."
                )
