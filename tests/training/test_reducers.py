"""Every reduction fitted on the same rows, kept in a run folder, read back, and applied to new rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from evaluation import reducers
from models import UserError
from training.reducers import METHODS, ReducerFits, check_dims, check_methods, reducer
from training.run_folder import Run

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # the stages share it
CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = [
    "trainer.mds.steps=12", "trainer.autoencoder.steps=12", "trainer.matryoshka.steps=12", "mds.hidden=[8]",
    "autoencoder.hidden=[8]", "mds.quadruplets=500", "trainer.accelerator=cpu",
]  # fmt: skip


def rows(n: int = 80, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.linspace(2, 0.5, d) + 1


def fits(folder: Path, paired: bool, dims: Sequence[int] = (2, 4), *overrides: str) -> ReducerFits:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["model=mds", f"run_dir={folder}", *QUICK, *overrides])
    x = rows()
    y, image = (x + 0.1 * rows(seed=1), torch.arange(80)) if paired else (None, None)
    return ReducerFits(config, x, y, image, list(dims), Run(folder, config), torch.device("cpu"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Of one kind of rows and of pairs, every method at two widths."""
    folders = {paired: tmp_path_factory.mktemp("run") for paired in (False, True)}
    for paired, folder in folders.items():
        fitted = fits(folder, paired)
        for method in METHODS:
            for dim in (2, 4):
                fitted(method, dim)
    return folders


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_what_was_fitted_is_read_back_and_maps_new_rows(runs: dict[bool, Path], method: str, paired: bool) -> None:
    new = rows(7, seed=3)
    for dim in (2, 4):
        found = reducer(runs[paired], method, dim)
        again = fits(runs[paired], paired)(method, dim)  # from its checkpoint
        for kind in (0, 1)[: 1 + paired]:
            codes = found(new, kind)
            assert codes.shape == (7, dim) and torch.equal(codes, again(new, kind)) and bool(codes.isfinite().all())
    expected = "dot" if method == "cross_modal_svd" else "cosine" if paired else "euclidean"
    assert found.metric == expected


def test_closed_forms_and_matryoshka_are_fitted_once_and_cut(runs: dict[bool, Path]) -> None:
    names = {path.stem for path in (runs[True] / "checkpoints").glob("*.ckpt")}
    once = {"pca", "centred_pca", "cross_modal_svd", "gaussian_projection", "coordinates", "matryoshka"}
    assert names == once | {f"{m}_{dim}" for m in ("autoencoder", "isometric", "isotonic") for dim in (2, 4)}
    new = rows(7, seed=3)
    for method in once:
        wide, narrow = (reducer(runs[True], method, dim)(new, 1) for dim in (4, 2))
        assert torch.equal(wide[:, :2], narrow)


def test_nothing_is_fitted_twice(runs: dict[bool, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (runs[True] / "checkpoints").glob("*.ckpt")}
    fitted = fits(runs[True], True)
    for method in METHODS:
        fitted(method, 4)
    assert before == {path: path.stat().st_mtime_ns for path in (runs[True] / "checkpoints").glob("*.ckpt")}


def test_the_same_seed_fits_the_same(runs: dict[bool, Path], tmp_path: Path) -> None:
    new = rows(7, seed=3)
    for method in ("isotonic", "autoencoder", "matryoshka"):
        assert torch.equal(fits(tmp_path, True)(method, 2)(new), reducer(runs[True], method, 2)(new))


def test_the_command_applies_a_reduction_to_a_file(runs: dict[bool, Path], tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    np.save(tmp_path / "new.npy", rows(7, seed=3).numpy())
    arguments = [f"run={runs[True]}", "dim=2", f"rows={tmp_path / 'new.npy'}", f"out={tmp_path / 'codes.npy'}"]
    reducers.main([*arguments, "method=isometric", "kind=image", "json=true"])
    assert json.loads(capsys.readouterr().out) == {"rows": 7, "columns": 2, "file": str(tmp_path / "codes.npy")}
    expected = reducer(runs[True], "isometric", 2)(rows(7, seed=3), 1)
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), expected.numpy())
    with pytest.raises(UserError, match="Expected kind to be one of text, image, got sound"):
        reducers.main([*arguments, "method=isometric", "kind=sound"])


def test_widths_and_methods() -> None:
    assert check_dims(None, 48) == [2, 4, 8, 16, 32, 48] and check_dims(None, 8) == [2, 4, 8]
    assert check_dims([8, 2, 8], 8) == [2, 8] and check_dims(4, 8) == [4]
    wrong: list[tuple[Any, str]] = [([9], "9"), ([0, 2], "0"), ([], "none"), ([2.5], "2.5")]
    for dims, got in wrong:
        with pytest.raises(UserError, match=f"Expected dims= from 1 to 8, the embeddings' width, got {got}"):
            check_dims(dims, 8)
    with pytest.raises(UserError, match=r"Expected methods among pca, .*, got 'isometrik'. Did you mean isometric"):
        check_methods(["pca", "isometrik"])
    with pytest.raises(UserError, match=r"Expected methods among pca, .*, got none"):
        check_methods([])


def test_what_cannot_be_applied_is_one_line(runs: dict[bool, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected rows of 6 numbers, as the reduction was fitted on, got 5"):
        reducer(runs[False], "pca", 2)(rows(7, 5))
    with pytest.raises(UserError, match="Expected rows of the only kind that was fitted on, got images"):
        reducer(runs[False], "isometric", 2)(rows(7), 1)
    with pytest.raises(UserError, match="Expected isometric_3 among what .* has fitted"):
        reducer(runs[False], "isometric", 3)
    with pytest.raises(UserError, match=r"Expected dim= from 1 to 4, as .*matryoshka.ckpt has them, got 5"):
        reducer(runs[False], "matryoshka", 5)
    with pytest.raises(UserError, match=r"Expected dim= from 1 to 4, as .*matryoshka.ckpt has them, got 6"):
        fits(runs[False], False, (2, 6)).check(["pca", "matryoshka"])
    with pytest.raises(UserError, match="Expected metric to be one of cosine, euclidean, got manhattan"):
        fits(tmp_path, False, (2,), "metric=manhattan")("pca", 2)
