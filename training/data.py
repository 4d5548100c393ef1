"""Load the data that a run's configuration names."""

from typing import Any

from training.build import build, device_of
from training.manifest import described_data
from training.run_folder import Run
from training.settings import Settings
from training.zero_shot_labels import labelled

__all__ = ["load_data"]


def load_data(config: Settings, run: Run) -> Any:
    """Load the data of a run, with the factors that `prompts=` defines.

    Print how many rows are found and used, the notes of the data, and the skipped files.

    Returns:
        `ImageData`, `TextData` or `FeatureData`; for `data=pairs`, which only `model=mds` accepts, `PairData`.

    Raises:
        UserError: the data cannot be loaded, or are others than the run was started with.
    """
    with run.stage("data") as stage:
        data = labelled(config, build(config.data), run)
        stage.items = len(data.ids)
    found = len(data.ids) + len(data.skipped)
    print(f"{found:,} rows found, {len(data.ids):,} used, {len(data.skipped):,} skipped.")
    for note in [*data.notes, *(f"Skipped, cannot be read: {name}" for name in data.skipped)]:
        print(note)
    run.start_manifest(described_data(data), config.seed, str(device_of(config)))
    return data
