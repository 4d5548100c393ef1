"""Options of `python -m evaluation.edit`: check them against the run, and name the files after the edit."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from omegaconf import MISSING

from evaluation.command import option
from models import UserError

__all__ = ["EditableRun", "Options", "check_values", "component_name", "figure_path", "mode_of", "titled", "unused"]

# The options that each kind of edit allows.
ALLOWED = {"factor": {"value", "values", "donor"}, "component": {"values"}, "edits": set[str]()}
N = 8  # images of a strip
LONGEST = 200  # bytes of a file's name; file systems take 255, and a counter and a suffix are added


EditableRun: TypeAlias = Any  # `evaluation.run.LoadedRun`, which imports this to draw strips of itself


@dataclass
class Options:
    """Options, given as key=value."""

    run: str = option(MISSING, "run folder of model=iin, or a folder whose newest run is taken")
    factor: str | None = option(None, "factor to edit")
    value: Any = option(None, "value of the factor, a number or its word", text=True)
    values: list[Any] | None = option(
        None,
        "values of the factor or of the component (default: each value of the factor; -3 to 3 of a component)",
        text=True,
    )
    component: int | None = option(None, "component to set, in standard deviations")
    donor: str | None = option(
        None, "image file, or id of the run's data, whose block of the factor is swapped in", text=True
    )
    edits: dict[str, Any] | None = option(
        None, "values of several factors, which are set one after the other", text=True
    )
    images: list[str] | None = option(None, "photographs to edit (default: images of the run's data)")
    split: str = option("test", "split of the run's data: train, validation or test")
    align: str = option(
        "auto", "auto puts the face of a photograph where those of the run's images are; none edits the middle"
    )
    face: int = option(1, "number of the face in a photograph, by size: 1 is the largest")
    n: int = option(N, "number of images of the split; with value= of those that have another value")
    strength: float = option(1.0, "strength of the edit: 1 is the full edit, 0 the image itself")
    compose: str | None = option(
        None,
        "how the change is composed into the image: blend, replace, threshold, add, or none for the decoded edit "
        "(default: replace or blend, whichever is best for the encoder)",
    )
    out: str | None = option(None, "PNG file of the strip, or a folder for it (default: figures of the run)")
    json: bool = option(False, "print one JSON object: the files, and the codes before and after")
    seed: int = option(0, "seed of the choice of images")


def mode_of(run: EditableRun, options: Options) -> str:
    """Return the kind of edit that the options choose: factor, component or edits.

    Raises:
        UserError: none or several of them; options that this kind does not allow.
    """
    modes = [name for name in ALLOWED if getattr(options, name) is not None]
    if len(modes) != 1:
        names = ", ".join(factor.name for factor in run.editor.factors) or "none"
        raise UserError(
            f"Expected one of factor=, component= and edits=, got {' and '.join(modes) or 'none'}: try component=0, or "
            f"factor=NAME value=1 with one of this run's factors ({names})."
        )
    extra = [name for name in ("value", "values", "donor") if getattr(options, name) is not None]
    if len(extra) > 1 or set(extra) - ALLOWED[modes[0]]:
        allowed = " or ".join(f"{name}=" for name in sorted(ALLOWED[modes[0]])) or "nothing else"
        raise UserError(f"Expected {allowed} with {modes[0]}=, got {' and '.join(f'{name}=' for name in extra)}.")
    for name in ("values", "edits"):
        if (given := getattr(options, name)) is not None and not len(given):
            raise UserError(f"Expected at least one entry in {name}=, got none: name some, or leave it out.")
    return modes[0]


def values_of(run: EditableRun, options: Options) -> dict[str, Any]:
    """List the values that the factor is set to, by title, so that a value given by number and by word occurs once."""
    name = options.factor or ""
    number = run.editor.factor(name)
    values = list(run.editor.factors[number].values) if options.values is None else options.values
    values = values if options.value is None else [options.value]
    return {titled(run, name, value): value for value in values}


def check_values(run: EditableRun, options: Options) -> None:
    """Check that the run has the factors, components and values of the options, before any image is read.

    Raises:
        UserError: a factor, a component or a value that the run does not have.
    """
    for name, value in (options.edits or {}).items():
        run.editor.value(run.editor.factor(name), value)
    if options.factor is not None:
        values_of(run, options)
    for value in (options.values or [0]) if options.component is not None else []:
        run.editor.component_value(options.component or 0, value)


def titled(run: EditableRun, name: str, value: Any) -> str:
    """Write a factor and a value as text, such as "glasses: with"."""
    number = run.editor.factor(name)
    factor, target = run.editor.factors[number], run.editor.value(number, value)
    return f"{name}: {f'{target:.3g}' if factor.kind == 'continuous' else factor.values[int(target)]}"


def component_name(run: EditableRun, component: int) -> str:
    """Name a component by its number and the factor of its block."""
    factors = [factor.name for factor, block in zip(run.editor.factors, run.editor.iin.blocks, strict=True)
          if block.start <= component < block.stop]  # fmt: skip
    return f"component {component} ({factors[0] if factors else 'residual'})"


def plain(text: str) -> str:
    """Turn a text into a part of a file's name.

    >>> plain("glasses: with")
    'glasses_with'
    """
    return re.sub(r"[^\w.+-]+", "_", text.replace("−", "-")).strip("_")


def shortened(name: str) -> str:
    """Shorten a file's name, without its suffix, to the bytes that file systems take."""
    return name.encode()[:LONGEST].decode(errors="ignore")


def edit_name(run: EditableRun, options: Options) -> str:
    """Describe the edit as a part of a file's name."""
    if options.component is not None:
        values = [] if options.values is None else ["at", *(f"{float(value):g}" for value in options.values)]
        return "_".join(["set_component", str(options.component), *values])
    if options.donor is not None:
        return f"swap_{options.factor}_from_{Path(options.donor).stem}"
    single = [] if options.value is None else [options.value]
    targets = (
        [(options.factor, value) for value in options.values or single]
        if options.factor
        else list((options.edits or {}).items())
    )
    return (
        "_".join(["set", *(titled(run, name, value) for name, value in targets)])
        if targets
        else f"set_{options.factor}"
    )


def images_name(options: Options) -> str:
    """Describe the images as a part of a file's name."""
    if options.images is not None:
        more = f"_and_{len(options.images) - 1}_more" if len(options.images) > 1 else ""
        return f"{Path(options.images[0]).stem}{more}" + (f"_face_{options.face}" if options.face != 1 else "")
    return f"{options.split}_seed_{options.seed}" + (f"_n_{options.n}" if options.n != N else "")


def figure_path(run: EditableRun, options: Options) -> Path:
    """Choose the PNG to write, named after the edit and its images, and not yet existing."""
    if options.out is not None and options.out.lower().endswith(".png"):
        return unused(Path(options.out).expanduser())
    settings = [f"strength_{options.strength:g}"] if options.strength != 1 else []
    settings += [f"compose_{options.compose}"] if options.compose else []
    folder = run.path / "figures" if options.out is None else Path(options.out).expanduser()
    name = plain("_".join([edit_name(run, options), *settings, images_name(options)]))
    return unused(folder / f"{shortened(name)}.png")


def unused(path: Path) -> Path:
    """Return the path, with a counter added where that file exists."""
    count, free = 2, path
    while free.exists():
        free, count = path.with_stem(f"{path.stem}_{count}"), count + 1
    return free
