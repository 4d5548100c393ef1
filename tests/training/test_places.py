"""Where the data of a run lie, today and when it was trained; what a run may write to, and what not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from datamodules.cache import is_cache, mark_cache
from evaluation import explore, tsne
from evaluation.run import load
from models import UserError
from training.places import take_cache, with_absolute_paths
from training.resolvers import user_cache
from training.run_folder import Run
from training.settings import resolve_settings
from training.stored_settings import stored

ROOT = Path(__file__).parents[2]


def composed(run: Path, *overrides: str) -> Any:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", ["model=dec", "data=vectors", f"run_dir={run}", f"cache_dir={run.parent / 'cache'}",
                                 "trainer.accelerator=cpu", *overrides])  # fmt: skip


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of vectors, whose data.path was typed relative to the folder where the command was typed."""
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    np.save("rows.npy", np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    settings = resolve_settings(composed(tmp_path / "run", "data.path=rows.npy"))
    run = Run(tmp_path / "run", settings)
    (tmp_path / "run/checkpoints").mkdir()
    (tmp_path / "run/checkpoints/last.ckpt").touch()
    from training.build import build

    run.manifest(build(settings.data), None, 0, "cpu")
    run.save()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_a_relative_path_is_found_from_any_folder(trained: Path) -> None:
    assert stored(trained / "config.yaml").data.path == str(trained.parent / "there/rows.npy")
    assert len(load(trained).data.ids) == 20


def test_data_that_have_moved(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(tmp_path / "there/rows.npy", tmp_path / "moved.npy")
    with pytest.raises(UserError, match=r"at .*there/rows.npy, got no such file: set data.path"):
        _ = load(trained).data
    ids = load(trained, places={"path": "moved.npy"}).data.ids
    assert len(ids) == 20
    explore.main([f"run={trained}", "data.path=moved.npy", f"query={ids[0]}", "json=true"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])
    np.save("other.npy", np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32))
    for command in (explore, tsne):
        with pytest.raises(UserError, match=r"Expected the data that .*run was trained on, got other rows"):
            command.main(
                [f"run={trained}", "data.path=other.npy", *([f"query={ids[0]}"] if command is explore else [])]
            )
    with pytest.raises(UserError, match=r"where its data lie now \(data.path=.*\), got data.column=x: other"):
        tsne.main([f"run={trained}", "data.column=x"])


def test_training_goes_on_where_the_data_lie_now(trained: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "there/rows.npy", tmp_path / "moved.npy")
    ckpt = f"ckpt={trained}/checkpoints/last.ckpt"
    again = resolve_settings(composed(trained, "data.path=moved.npy"))
    resumed = resolve_settings(composed(trained, ckpt), [ckpt, "data.path=moved.npy"], {})
    assert again.data.path == resumed.data.path == str(tmp_path / "moved.npy")
    (trained / "manifest.json").unlink()  # then nothing says which data the run was started with
    for arguments in (
        (composed(trained, "data.path=moved.npy"),),
        (composed(trained, ckpt), [ckpt, "data.path=x.npy"]),
    ):
        with pytest.raises(UserError, match=r"got data.path=.* \(there .*there/rows.npy\)"):
            resolve_settings(*arguments)


def test_the_same_command_in_a_run_of_an_earlier_version_goes_on(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (trained / "config.yaml").read_text()
    (trained / "config.yaml").write_text(text.replace(str(trained.parent / "there/rows.npy"), "rows.npy"))
    (trained / "manifest.json").unlink()
    monkeypatch.chdir(trained.parent / "there")
    assert resolve_settings(composed(trained, "data.path=rows.npy")).data.path == str(trained.parent / "there/rows.npy")


def test_what_may_be_a_name_is_a_path_where_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("openai", "hub", "hub/model"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labels.csv").touch()
    settings = OmegaConf.create({
        "data": {"root": "~/x", "path": ["a.npy", "/b.npy"], "names": "name", "labels": ["labels.csv", "y"]},
        "encoder": {"weights": "openai", "model": "hub/model"}, "judge_model": {"a": "labels.csv"},
    })  # fmt: skip
    with_absolute_paths(settings)
    here = str(tmp_path)
    assert settings == {
        "data": {"root": str(Path.home() / "x"), "path": [f"{here}/a.npy", "/b.npy"], "names": "name",
                 "labels": [f"{here}/labels.csv", "y"]},
        "encoder": {"weights": "openai", "model": f"{here}/hub/model"}, "judge_model": {"a": f"{here}/labels.csv"},
    }  # fmt: skip


def test_a_run_uses_no_folder_as_a_cache_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACET_CACHE", str(tmp_path / "own"))
    (tmp_path / "documents").mkdir()
    settings = OmegaConf.create({"cache_dir": str(tmp_path / "documents"), "data": {"cache_dir": "/nowhere"}})
    take_cache(settings)
    assert settings.cache_dir == settings.data.cache_dir == user_cache() == str(tmp_path / "own")
    mark_cache(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()  # nothing is left of a run that does not begin
    (tmp_path / "cache").mkdir()
    mark_cache(tmp_path / "cache")
    assert is_cache(tmp_path / "cache") and not is_cache(tmp_path / "documents")
    settings = OmegaConf.create({"cache_dir": str(tmp_path / "cache"), "data": {}})
    take_cache(settings)
    assert settings.cache_dir == str(tmp_path / "cache") and "cache_dir" not in settings.data


@pytest.mark.parametrize("name", ["figures", "figures/deeper", "metrics.json", "tensorboard"])
def test_links_that_lead_out_of_a_run(trained: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (trained / "figures").mkdir(exist_ok=True)
    place = trained / name
    if place.is_dir():
        place.rmdir()
    place.unlink(missing_ok=True)
    place.symlink_to(tmp_path / "mine")
    ckpt = f"ckpt={trained}/checkpoints/last.ckpt"
    for use in (lambda: load(trained), lambda: resolve_settings(composed(trained, ckpt), [ckpt], {})):
        with pytest.raises(UserError, match=rf"without links that lead out of it, got .*{name} -> .*mine:"):
            use()


def test_links_within_a_run_to_checkpoints_and_to_a_whole_run(trained: Path, tmp_path: Path) -> None:
    shutil.move(trained / "checkpoints/last.ckpt", tmp_path / "last.ckpt")
    (trained / "checkpoints/last.ckpt").symlink_to(tmp_path / "last.ckpt")
    (trained / "newest").symlink_to(trained / "checkpoints")
    (tmp_path / "link").symlink_to(trained)
    assert load(tmp_path / "link").path == tmp_path / "link"
