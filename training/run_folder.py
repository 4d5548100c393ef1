"""Write the folder of a run: its configuration at the start, its numbers after every stage."""

import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from datamodules.cache import mark_cache
from datamodules.factors import ImageData
from datamodules.features import FeatureData
from datamodules.texts import TextData
from models import UserError, near_names
from training.files import write_file, write_json
from training.manifest import difference, manifest
from training.metrics import known_metrics, write_metrics
from training.run_files import read_manifest
from training.settings import shortened

__all__ = ["Run", "Stage", "open_run", "find_run", "finished", "how_to_go_on"]


NOTHING_TRAINED = {"config.yaml", "metrics.json", "manifest.json"}  # the files of a run that failed before it trained


@dataclass
class Stage:
    """A running stage; `items`, the number of processed items, may also be set while it runs."""

    items: int | None = None


class Run:
    """Writes a run folder: `config.yaml` at the start, the numbers whenever `save` is called.

    `metrics` maps paths to numbers; `measurements` holds nested data, from which the report draws its charts.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        self.path, self.started, self.shortened = Path(path), time.perf_counter(), shortened(config)
        # A resumed run keeps the numbers of stages that it does not repeat.
        self.metrics: dict[str, float] = known_metrics(self.path)
        self.earlier_s = self.metrics.get("time/total_s", 0.0)
        self.measurements: dict[str, Any] = {}
        console = Console(highlight=False)
        self.console = console if console.is_terminal else Console(highlight=False, width=120)
        write_file(self.path / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        caches = [place.get("cache_dir") for place in (config, config.get("data") or {})]
        self.caches = [Path(cache).expanduser() for cache in caches if cache is not None]

    @contextmanager
    def stage(self, name: str, items: int | None = None) -> Iterator[Stage]:
        """Time a stage as `time/<name>_s` and, if the number of items is known, `throughput/<name>_per_s`.

        The numbers are saved at the end of the stage, so that a run that is killed later keeps them.
        """
        stage, started = Stage(items), time.perf_counter()
        self.console.print(f"[bold]{escape(name)}[/] started", soft_wrap=True)
        yield stage
        seconds = time.perf_counter() - started
        speed = ""
        self.metrics[f"time/{name}_s"] = seconds
        if stage.items is not None:
            self.metrics[f"throughput/{name}_per_s"] = stage.items / max(seconds, 1e-9)
            speed = f", {stage.items / max(seconds, 1e-9):,.0f} per s"
        self.console.print(f"[bold]{escape(name)}[/] took {seconds:.1f} s{speed}", soft_wrap=True)
        self.save()

    def update(self, metrics: Mapping[str, float | Tensor | None]) -> None:
        """Add metrics; None stands for a missing number. One that is not finite is reported, see `training.metrics`."""
        self.metrics.update({key: float(value) for key, value in metrics.items() if value is not None})

    def save(self) -> None:
        """Write `metrics.json` and `measurements.json`."""
        for cache in self.caches:
            mark_cache(cache)
        self.metrics["time/total_s"] = self.earlier_s + time.perf_counter() - self.started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.metrics["memory/peak_mib"] = peak / (2**20 if sys.platform == "darwin" else 2**10)
        if torch.cuda.is_available():
            self.metrics["memory/gpu_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        write_metrics(self.path, self.metrics, self.measurements)

    def manifest(
        self,
        data: ImageData | TextData | FeatureData,
        encoder: Mapping[str, str | int | float | bool] | None,
        seed: int,
        device: str,
    ) -> None:
        """Write `manifest.json`, see `training.manifest`.

        Raises:
            UserError: the run was started with other data, labels or another encoder, even if the settings are equal.
        """
        file = self.path / "manifest.json"
        earlier = read_manifest(self.path)
        self.check_data(data, earlier)
        before, found = ((made_of or {}).get("sha256") for made_of in (earlier.get("encoder"), encoder))
        if before is not None and before != found:
            raise UserError(
                f"Expected the encoder that {self.path} was started with (sha256 {str(before)[:12]}), got another "
                f"({str(found)[:12]}): choose another run_dir= for a new run."
            )
        write_json(file, manifest(data, encoder, seed, device))

    def check_data(self, data: ImageData | TextData | FeatureData, earlier: Mapping[str, Any]) -> None:
        """Check the data against the manifest of the run as it is.

        Raises:
            UserError: the run was started with other data or labels.
        """
        if part := difference(earlier.get("data") or {}, data):
            raise UserError(
                f"Expected the data that {self.path} was started with, got other {part}: put them back, or choose "
                "another run_dir= for a new run."
            )

    def start_manifest(self, data: ImageData | TextData | FeatureData, seed: int, device: str) -> None:
        """Record the data before anything is trained on them; the encoder may still have to be trained.

        Raises:
            UserError: see `check_data`.
        """
        file = self.path / "manifest.json"
        if file.is_file():
            self.check_data(data, read_manifest(self.path))
        else:
            write_json(file, manifest(data, None, seed, device))


@contextmanager
def open_run(config: Any) -> Iterator[Run]:
    """Open the run folder of a configuration; it is removed if a new run fails before it has trained anything."""
    path = Path(config.run_dir)
    new = not (path / "config.yaml").exists()
    try:
        yield Run(path, config)
    except UserError:
        if new and path.is_dir() and {entry.name for entry in path.iterdir()} <= NOTHING_TRAINED:
            shutil.rmtree(path)
        raise


def find_run(path: str | Path) -> Path:
    """Return the run folder at a path, or the newest run below it, preferably a finished one.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        names = [place.name for place in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = near_names(folder.name, names)
        raise UserError(f"Expected a run folder at {folder}, got no such folder: give the one training printed.{near}")
    if (folder / "config.yaml").is_file():
        return folder
    found = [place.parent for place in folder.rglob("config.yaml") if not place.parent.name.startswith(".")]
    if not found:
        raise UserError(
            f"Expected a run folder at {folder}, got one without config.yaml: give the one training printed."
        )
    return max([run for run in found if finished(run)] or found, key=lambda run: (run / "config.yaml").stat().st_mtime)


def how_to_go_on(folder: Path, signal: str) -> str:
    """Return the line that a run prints when a signal ends it: what to type to go on."""
    kept = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    argument = f"ckpt={kept[-1]}" if kept else f"run_dir={folder} and the same settings"
    saved = "what is trained is saved" if kept else "nothing was trained yet"
    return f"Stopped by {signal}, {saved} in {folder}: go on by python train.py {argument}"


def finished(folder: Path) -> bool:
    """Tell whether a run has a final or partial checkpoint, or the clusters of k-means, which has none."""
    return any((folder / "checkpoints").glob("*.ckpt")) or (folder / "assignments.parquet").is_file()
