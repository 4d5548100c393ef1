"""The run folder while a run goes on: its configuration at once, its numbers after every stage."""

import inspect
import math
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from datamodules.factors import ImageData
from datamodules.features import FeatureData
from datamodules.texts import TextData
from evaluation.comparison import cluster_rows, cluster_table, edit_rows, edit_table, invariance_line, metric_table
from evaluation.files import read_json, write_file, write_json
from evaluation.manifest import manifest
from evaluation.settings import shortened
from models import UserError

__all__ = ["Run", "Stage", "begun", "device_of", "made"]

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


@dataclass
class Stage:
    """A stage under way; `items` may also be set while it runs."""

    items: int | None = None


class Run:
    """A run folder being written: `config.yaml` at once, the numbers whenever `save` is called.

    `metrics` is flat, path -> number; `measurements` is what is not flat (see `evaluation.figures.draw_measurements`).

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        self.path, self.started, self.shortened = Path(path), time.perf_counter(), shortened(config)
        # A resumed run keeps what the stages measured that it need not repeat.
        earlier = self.path / "metrics.json"
        self.metrics: dict[str, float] = read_json(earlier) if earlier.is_file() else {}
        self.earlier_s = self.metrics.get("time/total_s", 0.0)
        self.measurements: dict[str, Any] = {}
        console = Console(highlight=False)
        self.console = console if console.is_terminal else Console(highlight=False, width=120)
        write_file(self.path / "config.yaml", OmegaConf.to_yaml(config, resolve=True))

    @contextmanager
    def stage(self, name: str, items: int | None = None) -> Iterator[Stage]:
        """Times what runs inside as `time/<name>_s` and, where the items are known, `throughput/<name>_per_s`.

        Saved at once, so that a run killed later still knows.
        """
        stage, started = Stage(items), time.perf_counter()
        self.console.print(f"[bold]{name}[/] started", soft_wrap=True)
        yield stage
        seconds = time.perf_counter() - started
        speed = ""
        self.metrics[f"time/{name}_s"] = seconds
        if stage.items is not None:
            self.metrics[f"throughput/{name}_per_s"] = stage.items / max(seconds, 1e-9)
            speed = f", {stage.items / max(seconds, 1e-9):,.0f} per s"
        self.console.print(f"[bold]{name}[/] took {seconds:.1f} s{speed}", soft_wrap=True)
        self.save()

    def update(self, metrics: Mapping[str, float | Tensor | None]) -> None:
        """Add metrics; None and NaN say that there is no such number, and stay out of the file."""
        self.metrics.update({key: float(value) for key, value in metrics.items() if value is not None})

    def save(self) -> None:
        """Write `metrics.json` and `measurements.json`."""
        self.metrics["time/total_s"] = self.earlier_s + time.perf_counter() - self.started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.metrics["memory/peak_mib"] = peak / (2**20 if sys.platform == "darwin" else 2**10)
        if torch.cuda.is_available():
            self.metrics["memory/gpu_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        finite = {key: value for key, value in self.metrics.items() if math.isfinite(value)}
        write_json(self.path / "metrics.json", finite)
        if self.measurements:
            write_json(self.path / "measurements.json", self.measurements)

    def manifest(
        self,
        data: ImageData | TextData | FeatureData,
        encoder: Mapping[str, str | int | float | bool] | None,
        seed: int,
        device: str,
    ) -> None:
        """Write `manifest.json`, see `evaluation.manifest`.

        Raises:
            UserError: the folder was begun with other images or another encoder, whatever the settings say.
        """
        file = self.path / "manifest.json"
        earlier, now = read_json(file), manifest(data, encoder, seed, device)
        for part, key in (("data", "fingerprint"), ("encoder", "sha256")):
            before, found = ((made_of.get(part) or {}).get(key) for made_of in (earlier, now))
            if before is not None and before != found:
                raise UserError(
                    f"Expected the {part} that {self.path} was begun with ({key} {str(before)[:12]}), got another "
                    f"({str(found)[:12]}): choose another run_dir= for a new run."
                )
        write_json(file, now)

    def summary(self) -> None:
        """Print the main numbers and what to open next."""
        tables = (edit_table, edit_rows), (cluster_table, cluster_rows), (metric_table, bool)
        self.console.print()
        self.console.print(next(draw(self.metrics) for draw, rows in tables if rows(self.metrics)))
        if line := invariance_line(self.metrics):
            self.console.print(f"\n{line}", markup=False)
        if self.shortened:
            self.console.print(f"\n[bold]{self.shortened}[/]", soft_wrap=True)
        self.console.print(f"\nOpen: {self.path / 'report.html'}", soft_wrap=True, markup=False)
        self.console.print(f"      tensorboard --logdir {self.path / 'tensorboard'}", soft_wrap=True, markup=False)


@contextmanager
def begun(config: Any) -> Iterator[Run]:
    """The run folder of a configuration, taken away again where a new run ends before it made anything."""
    path = Path(config.run_dir)
    new = not (path / "config.yaml").exists()
    try:
        yield Run(path, config)
    except UserError:
        if new and path.is_dir() and {entry.name for entry in path.iterdir()} <= {"config.yaml", "metrics.json"}:
            shutil.rmtree(path)
        raise


def device_of(config: Any) -> torch.device:
    """Where everything is computed.

    Raises:
        UserError: an accelerator of another name, or a GPU asked for where there is none.
    """
    asked = config.trainer.accelerator
    if asked not in ACCELERATORS:
        raise UserError(f"Expected trainer.accelerator to be one of {', '.join(ACCELERATORS)}, got {asked!r}.")
    if asked in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"Expected a GPU for trainer.accelerator={asked}, got none that torch sees: use auto or cpu.")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def made(settings: Mapping[str, Any], **arguments: Any) -> Any:
    """What the configuration names, made with these arguments.

    Raises:
        UserError: a value that is missing, of another kind than its constructor takes, or one that it refuses.
    """
    target = str(settings["_target_"])
    if isinstance(settings, DictConfig) and (missing := OmegaConf.missing_keys(settings)):
        raise UserError(f"Expected {min(missing)}=..., got none: {target} needs it.")
    for name, parameter in inspect.signature(get_object(target)).parameters.items():
        if name in settings and name not in arguments and not fits(settings[name], parameter.annotation):
            place = settings._get_full_key(name) if isinstance(settings, DictConfig) else name
            raise UserError(f"Expected {place} to be {kinds(parameter.annotation)}, got {settings[name]!r}.")
    try:
        return instantiate(settings, **arguments)
    except InstantiationException as error:  # Hydra's, around every other
        cause = error.__cause__
        if isinstance(cause, ValueError):
            raise UserError(str(cause)) from error
        if isinstance(cause, TypeError | KeyError):  # what no kind tells: a list of texts, a word that is not known
            raise UserError(
                f"Expected settings that {target} can be made with, got {type(cause).__name__}: {cause}; compare them "
                "with those in configs/."
            ) from error
        raise


def fits(value: Any, annotation: Any) -> bool:
    """Whether a setting is of an annotated kind, as far as a configuration can get it wrong: numbers, words, lists."""
    kind = get_origin(annotation)
    if kind in (Union, UnionType):
        return any(fits(value, option) for option in get_args(annotation))
    if kind is Literal:
        return value in get_args(annotation)
    if kind is list:
        return isinstance(value, list | tuple | ListConfig)
    if annotation is float:
        return type(value) in (int, float)
    return type(value) is annotation if annotation in (int, bool, NoneType) else True


def kinds(annotation: Any) -> str:
    """What `fits` asks for, in words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
    kind = get_origin(annotation)
    if kind is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if kind in (Union, UnionType):
        return " or ".join(kinds(option) for option in get_args(annotation))
    return "a list" if kind is list else words.get(annotation, str(annotation))
