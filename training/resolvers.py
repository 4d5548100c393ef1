"""Resolvers of the configuration, `${data_name:…}` and `${user_cache:}`; importing this module registers them."""

import os
import sys
from pathlib import Path

from omegaconf import OmegaConf

__all__ = ["user_cache"]


def user_cache() -> str:
    """Return the folder of caches: `FACET_CACHE`, or `facet` in the user's own cache folder.

    It does not depend on the working directory, so all checkouts share it.
    """
    if chosen := os.environ.get("FACET_CACHE"):
        return str(Path(chosen).expanduser().absolute())
    places = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    folder = os.environ.get("XDG_CACHE_HOME") or places.get(sys.platform, "~/.cache")
    return str(Path(folder).expanduser().absolute() / "facet")


OmegaConf.register_new_resolver("data_name", lambda target: target.split(".")[-1], replace=True)
OmegaConf.register_new_resolver("user_cache", user_cache, replace=True)
