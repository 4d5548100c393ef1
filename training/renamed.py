"""Experiments that were renamed: their old names still work on the command line and in the settings of older runs."""

import sys
from collections.abc import Sequence

__all__ = ["EXPERIMENTS", "with_new_names"]

EXPERIMENTS = {"deck_clustering": "cifar10_clip_clustering", "deck_reduction": "coco_clip_reduction"}


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """Replace the old names in `experiment=` arguments by the new ones, and note each on stderr.

    >>> with_new_names(["experiment=published", "seed=1"])
    ['experiment=published', 'seed=1']
    """
    renamed = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        names = value.split(",") if key.lstrip("+") == "experiment" else []  # several in a sweep
        for name in EXPERIMENTS.keys() & set(names):
            print(f"experiment={name} is now called experiment={EXPERIMENTS[name]}.", file=sys.stderr)
        renamed.append(key + equals + ",".join(EXPERIMENTS.get(name, name) for name in names) if names else argument)
    return renamed
