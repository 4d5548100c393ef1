"""Find a network's tensors in a checkpoint, wherever other projects put them and whatever they call them.

Published checkpoints hold a state dict as they are, below `state_dict`, `model` or `teacher`, and with prefixes such as
`module.` (of several GPUs), `backbone.` or `_orig_mod.`; those of a classifier end in a head for its own classes.
"""

import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models import UserError
from models.weights import first_line, load_tensors

__all__ = ["read_weights", "reason", "tensors_for", "with_own_head"]

# Of several networks that fit equally well, the one that their authors evaluate is taken.
FIRST = ("teacher", "state_dict", "model")
DEPTH = 3  # dictionaries within dictionaries


def dictionaries(
    content: Mapping[str, Any], place: str = "", depth: int = DEPTH
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors of a dictionary and of those within it, with their places."""
    if tensors := {str(name): value for name, value in content.items() if isinstance(value, Tensor)}:
        yield place, tensors
    inner = [str(name) for name, value in content.items() if isinstance(value, Mapping)]
    for name in sorted(inner, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        if depth:
            yield from dictionaries(content[name], f"{place}{name}/", depth - 1)


def prefixes(tensors: Collection[str], known: Collection[str]) -> set[str]:
    """Return what stands before names of the network in names of the tensors; nothing, at least."""
    some = [name for name in known if "." in name][:3] or list(known)[:3]
    return {"", *(name[: -len(own)] for name in tensors for own in some if name.endswith(f".{own}"))}


def tensors_for(content: Mapping[str, Any], known: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors that have the names of a network, without their prefix, and where they are.

    Where no name fits, they are the tensors of the first dictionary, so that loading them can say what is missing.

    >>> import torch
    >>> tensors_for({"teacher": {"backbone.fc.bias": torch.ones(1), "head.bias": torch.ones(2)}}, ["fc.bias"])
    ({'fc.bias': tensor([1.])}, 'teacher/backbone.')
    """
    best: tuple[int, dict[str, Tensor], str] | None = None
    names = set(known)
    for place, tensors in dictionaries(content):
        for prefix in sorted(prefixes(tensors, known), key=len):
            found = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            fitting = len(names & found.keys())
            if best is None or fitting > best[0]:
                best = fitting, found, f"{place}{prefix}"
    return ({}, "") if best is None else best[1:]


def with_own_head(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Replace the head, which features do not depend on, by the network's own where it is missing or of other classes.

    `head` is the name of the last linear layer. Other tensors stay as they are.
    """
    fits = all(name in tensors and tensors[name].shape == value.shape
               for name, value in own.items() if name.startswith(f"{head}."))  # fmt: skip
    if fits:
        return dict(tensors)
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{head}.")}
    return rest | {name: value for name, value in own.items() if name.startswith(f"{head}.")}


def reason(error: Exception) -> str:
    """Return one line of an error; if torch lists tensors that do not fit, the line of the first tensor."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    line = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading state_dict") else first_line(error)
    return line if len(line) <= 200 else f"{line[:200]}..."


def read_weights(file: Path, own: Mapping[str, Tensor] | None = None, head: str | None = None) -> dict[str, Tensor]:
    """Load the tensors of a weights file without running pickled code, those with the names of `own` where it is given.

    A `head` of other classes, or a missing one, is replaced by that of `own`; see `models.state_dicts`.

    Raises:
        UserError: the file cannot be read.
    """
    from safetensors.torch import load_file

    try:
        state = load_file(file) if file.suffix == ".safetensors" else load_tensors(file)
        if own is None:
            return dict(state.get("state_dict", state))
        tensors, place = tensors_for(state, own)
        if place:
            print(f"encoder: the weights are {place}* of {file.name}.", file=sys.stderr)
        return tensors if head is None else with_own_head(tensors, own, head)
    except UserError:
        raise
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own types for a broken file
        raise UserError(
            f"Expected a file of weights at {file}, got one that cannot be read ({reason(error)}): give a state dict."
        ) from error
