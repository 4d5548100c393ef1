"""Resolvers of the configuration: `data_name`, `tuned` and `user_cache`; importing this module registers them."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

__all__ = ["tuned", "user_cache"]


def user_cache() -> str:
    """Return the folder of caches: `FACET_CACHE`, or `facet` in the user's own cache folder.

    It does not depend on the working directory, so all checkouts share it.
    """
    if chosen := os.environ.get("FACET_CACHE"):
        return str(Path(chosen).expanduser().absolute())
    places = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    folder = os.environ.get("XDG_CACHE_HOME") or places.get(sys.platform, "~/.cache")
    return str(Path(folder).expanduser().absolute() / "facet")


def tuned(values: Mapping[str, Any], default: Any, *, _root_: Any) -> Any:
    """Return the value for the run's data, of a mapping by data or ENCODER_DATA, or else the default.

    ${tuned:{celeba: 256, vae_folder: 256},64} is 256 for CelebA, and for a folder in the latents of Facet's own VAE.
    """
    data = str(_root_.data["_target_"]).rpartition(".")[2]
    names = (f"{_root_.encoder.get('name')}_{data}", data)
    return next((values[name] for name in names if name in values), default)


OmegaConf.register_new_resolver("tuned", tuned, replace=True)
OmegaConf.register_new_resolver("data_name", lambda target: target.split(".")[-1], replace=True)
OmegaConf.register_new_resolver("user_cache", user_cache, replace=True)
