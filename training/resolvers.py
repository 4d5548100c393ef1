"""Functions that the configuration calls, `${data_name:…}` and `${user_cache:}`: to import them makes them known."""

import os
import sys
from pathlib import Path

from omegaconf import OmegaConf

__all__ = ["user_cache"]


def user_cache() -> str:
    """Return the folder of what is computed once: `FACET_CACHE`, or `facet` in the user's own cache folder.

    It does not depend on the working directory, so that another checkout draws and encodes nothing again.
    """
    if chosen := os.environ.get("FACET_CACHE"):
        return str(Path(chosen).expanduser().absolute())
    places = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    folder = os.environ.get("XDG_CACHE_HOME") or places.get(sys.platform, "~/.cache")
    return str(Path(folder).expanduser().absolute() / "facet")


OmegaConf.register_new_resolver("data_name", lambda target: target.split(".")[-1], replace=True)
OmegaConf.register_new_resolver("user_cache", user_cache, replace=True)
