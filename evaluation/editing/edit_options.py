"""Options of the command that edits: what is edited, whether the run has it, and how the files are named after it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from omegaconf import MISSING

from models import UserError

__all__ = ["EditableRun", "Options", "check_values", "component_name", "figure_path", "mode_of", "titled", "unused"]

# The options that go with what is edited.
WITH = {"factor": {"value", "values", "donor"}, "component": {"values"}, "edits": set[str]()}
N = 8  # images of a strip
LONGEST = 200  # bytes of a file's name, of which a disk takes 255: a counter and a suffix come after it


EditableRun: TypeAlias = Any  # `evaluation.run.LoadedRun`, which imports this to draw strips of itself


@dataclass
class Options:
    """See the module's text."""

    run: str = MISSING
    factor: str | None = None
    value: Any = None
    values: list[Any] | None = None
    component: int | None = None
    donor: str | None = None
    edits: dict[str, Any] | None = None
    images: list[str] | None = None
    split: str = "test"
    align: str = "auto"
    face: int = 1
    n: int = N
    strength: float = 1.0
    compose: str | None = None
    out: str | None = None
    json: bool = False
    seed: int = 0


def mode_of(run: EditableRun, asked: Options) -> str:
    """Which of factor, component and edits is asked for.

    Raises:
        UserError: none or several of them; options that do not go with it.
    """
    modes = [name for name in WITH if getattr(asked, name) is not None]
    if len(modes) != 1:
        names = ", ".join(factor.name for factor in run.editor.factors) or "none"
        raise UserError(
            f"Expected one of factor=, component= and edits=, got {' and '.join(modes) or 'none'}: try component=0, or "
            f"factor=NAME value=1 with one of this run's factors ({names})."
        )
    extra = [name for name in ("value", "values", "donor") if getattr(asked, name) is not None]
    if len(extra) > 1 or set(extra) - WITH[modes[0]]:
        allowed = " or ".join(f"{name}=" for name in sorted(WITH[modes[0]])) or "nothing else"
        raise UserError(f"Expected {allowed} with {modes[0]}=, got {' and '.join(f'{name}=' for name in extra)}.")
    for name in ("values", "edits"):
        if (given := getattr(asked, name)) is not None and not len(given):
            raise UserError(f"Expected at least one entry in {name}=, got none: name some, or leave it out.")
    return modes[0]


def values_of(run: EditableRun, asked: Options) -> dict[str, Any]:
    """The values that the factor is set to, by their titles; one that is given by number and by word is there once."""
    name = asked.factor or ""
    number = run.editor.factor(name)
    values = list(run.editor.factors[number].values) if asked.values is None else asked.values
    values = values if asked.value is None else [asked.value]
    return {titled(run, name, value): value for value in values}


def check_values(run: EditableRun, asked: Options) -> None:
    """Refuse a factor or a value that the run does not have, before any image is read."""
    for name, value in (asked.edits or {}).items():
        run.editor.value(run.editor.factor(name), value)
    if asked.factor is not None:
        values_of(run, asked)
    for value in (asked.values or [0]) if asked.component is not None else []:
        run.editor.component_value(asked.component or 0, value)


def titled(run: EditableRun, name: str, value: Any) -> str:
    """A factor and a value, in its own words where it has them."""
    number = run.editor.factor(name)
    factor, wanted = run.editor.factors[number], run.editor.value(number, value)
    return f"{name}: {f'{wanted:.3g}' if factor.kind == 'continuous' else factor.values[int(wanted)]}"


def component_name(run: EditableRun, component: int) -> str:
    """Its number and the factor in whose block it lies."""
    of = [factor.name for factor, block in zip(run.editor.factors, run.editor.iin.blocks, strict=True)
          if block.start <= component < block.stop]  # fmt: skip
    return f"component {component} ({of[0] if of else 'residual'})"


def plain(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", text.replace("−", "-")).strip("_")


def shortened(name: str) -> str:
    """A file's name, without its suffix, that a disk takes, whatever letters it has."""
    return name.encode()[:LONGEST].decode(errors="ignore")


def edit_name(run: EditableRun, asked: Options) -> str:
    """Describe the edit as a part of a file's name."""
    if asked.component is not None:
        values = [] if asked.values is None else ["at", *(f"{float(value):g}" for value in asked.values)]
        return "_".join(["set_component", str(asked.component), *values])
    if asked.donor is not None:
        return f"swap_{asked.factor}_from_{Path(asked.donor).stem}"
    single = [] if asked.value is None else [asked.value]
    wanted = (
        [(asked.factor, value) for value in asked.values or single]
        if asked.factor
        else list((asked.edits or {}).items())
    )
    return "_".join(["set", *(titled(run, name, value) for name, value in wanted)]) if wanted else f"set_{asked.factor}"


def images_name(asked: Options) -> str:
    """Describe the images as a part of a file's name."""
    if asked.images is not None:
        more = f"_and_{len(asked.images) - 1}_more" if len(asked.images) > 1 else ""
        return f"{Path(asked.images[0]).stem}{more}" + (f"_face_{asked.face}" if asked.face != 1 else "")
    return f"{asked.split}_seed_{asked.seed}" + (f"_n_{asked.n}" if asked.n != N else "")


def figure_path(run: EditableRun, asked: Options) -> Path:
    """The PNG to write, named after the edit and its images; never one that exists."""
    if asked.out is not None and asked.out.lower().endswith(".png"):
        return unused(Path(asked.out).expanduser())
    how = [f"strength_{asked.strength:g}"] if asked.strength != 1 else []
    how += [f"compose_{asked.compose}"] if asked.compose else []
    folder = run.path / "figures" if asked.out is None else Path(asked.out).expanduser()
    name = plain("_".join([edit_name(run, asked), *how, images_name(asked)]))
    return unused(folder / f"{shortened(name)}.png")


def unused(path: Path) -> Path:
    """The path, with a counter where there is such a file."""
    count, free = 2, path
    while free.exists():
        free, count = path.with_stem(f"{path.stem}_{count}"), count + 1
    return free
