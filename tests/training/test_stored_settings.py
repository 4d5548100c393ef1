"""A run folder is data: 35 settings that name other code, and none of them runs."""

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from evaluation import edit
from evaluation.run import load
from models import UserError
from training.settings import resolve_settings
from training.stored_settings import (
    as_text,
    check_files,
    follow_folder,
    named_in_configs,
    read_settings,
    stored,
    with_groups,
)

ROOT = Path(__file__).parents[2]


class Attack:
    """Pickled, it writes the file `executed` when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "executed"

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.fixture(scope="module")
def evil_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a module and pickles inside."""
    folder = tmp_path_factory.mktemp("downloads")
    run_copy = shutil.copytree(finished_run, folder / "run")
    (run_copy / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(folder / 'executed')!r}).touch()\n"
        "def f(*args, **options): return Evil()\nclass Evil: pass\n"
    )
    (run_copy / "evil.yaml").write_text("model: {pipeline: run.evil.f}\n")
    (run_copy / "evil.pkl").write_bytes(pickle.dumps(Attack(folder)))
    torch.save(Attack(folder), run_copy / "evil.pt")
    return run_copy


@pytest.fixture
def downloaded(evil_run: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, its settings as they were, in the folder where the commands are typed."""
    shutil.copy(finished_run / "config.yaml", evil_run)
    monkeypatch.chdir(evil_run.parent)
    monkeypatch.syspath_prepend(str(evil_run.parent))
    monkeypatch.setenv("EVIL", "run.evil.f")
    return evil_run


TOUCH = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["executed"]}}
ATTACKS: dict[str, dict[str, Any]] = {
    "pandas": {"data": {"_target_": "pandas.read_pickle", "filepath_or_buffer": "run/evil.pkl"}},
    "joblib": {"data": {"_target_": "joblib.load", "filename": "run/evil.pkl"}},
    "torch": {"data": {"_target_": "torch.load", "f": "run/evil.pt", "weights_only": False}},
    "numpy": {"data": {"_target_": "numpy.load", "file": "run/evil.pkl", "allow_pickle": True}},
    "pathlib": {"data": TOUCH},
    "write_file": {"data": {"_target_": "training.files.write_file", "content": "x",
                            "path": {"_target_": "pathlib.Path", "_args_": ["executed"]}}},
    "module in the run": {"data": {"_target_": "run.evil.f"}},
    "system": {"data": {"_target_": "os.system", "command": "touch executed"}},
    "subprocess": {"data": {"_target_": "subprocess.check_output", "_args_": [["touch", "executed"]]}},
    "exec": {"data": {"_target_": "builtins.exec", "_args_": ["open('executed', 'w')"]}},
    "a library's name through ours": {"data": {"_target_": "datamodules.tables.pd.read_pickle",
                                              "filepath_or_buffer": "run/evil.pkl"}},
    "nested": {"data": {"root": TOUCH}},
    "nested in lists": {"data": {"factors": [[{"a": [{"_target_": "run.evil.f"}]}]]}},
    "nested in a section of none": {"iin": {"head": {"_target_": "run.evil.f"}}},
    "encoder": {"encoder": {"_target_": "run.evil.f"}},
    "vae": {"vae": {"_target_": "run.evil.Evil"}},
    "iin": {"iin": {"_target_": "run.evil.Evil"}},
    "clusterer": {"model": {"name": "mine"}, "mine": {"_target_": "run.evil.Evil"}},
    "guide": {"guide": {"_target_": "run.evil.f"}},
    "logger": {"logger": {"_target_": "run.evil.f"}},
    "callbacks": {"callbacks": {"one": {"_target_": "run.evil.f"}}},
    "prompt encoder": {"prompt_encoder": {"_target_": "run.evil.f"}},
    "a logger as data": {"data": {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "executed"}},
    "pipeline": {"model": {"name": "iin", "pipeline": "run.evil.f"}},
    "partial": {"data": {"_partial_": True, "_target_": "run.evil.f"}},
    "arguments by place": {"data": {"_args_": ["run/evil.pkl"]}},
    "instantiate": {"data": {"_target_": "hydra.utils.instantiate", "config": {"_target_": "run.evil.f"}}},
    "get_object": {"data": {"_target_": "hydra.utils.get_object", "path": "run.evil.f"}},
    "interpolation": {"data": {"_target_": "${oc.env:EVIL}"}},
    "interpolated section": {"data": "${oc.create:'{_target_: run.evil.f}'}"},
    "a list as a name": {"data": {"_target_": ["run", "evil", "f"]}},
    "space": {"data": {"_target_": " run.evil.f"}},
    "a section named as a path": {"../../../executed": {"_target_": "models.turtle.TURTLE"}},
    "a model named as a path": {"model": {"name": "../../../executed"}},
    "the names of earlier versions": {"data": {"_target_": "models.lookup.torch.load", "f": "run/evil.pt"}},
}  # fmt: skip


def write(run: Path, changes: dict[str, Any]) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["run_dir"] = str(run)
    settings["model"].setdefault("pipeline", "evaluation.editing.pipeline.run_editing")
    for section, values in changes.items():
        values = values if isinstance(values, dict) else {"_target_": values}
        settings[section] = values if "name" in values else {**settings.get(section, {}), **values}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))


def go_on(run: Path) -> None:
    ckpt = f"ckpt={run}/checkpoints/vae.ckpt"
    resolve_settings(OmegaConf.create({"ckpt": ckpt.removeprefix("ckpt=")}), [ckpt], {})


def use(run: Path) -> None:
    found = load(run)
    _ = found.data, found.encoder, found.iin, found.clusterer


@pytest.mark.parametrize("way", [use, go_on, lambda run: edit.main([f"run={run}", "factor=glasses"])],
                         ids=["load", "ckpt", "edit"])  # fmt: skip
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_other_code_runs_from_a_run_folder(downloaded: Path, attack: str, way: Callable[[Path], None]) -> None:
    write(downloaded, ATTACKS[attack])
    with pytest.raises(UserError) as caught:
        way(downloaded)
    assert not (downloaded.parent / "executed").exists() and "run.evil" not in sys.modules
    assert "\n" not in str(caught.value) and "config.yaml" in str(caught.value), caught.value


@pytest.mark.parametrize("text", ["data: !!python/object/apply:os.system ['touch executed']\n",
                                  "data: !!python/name:run.evil.f\n", "a: &a [x, x]\nb: [*a, *a]\n", "", "[1, 2]\n",
                                  "[" * 200_000, "a: !!set {x: 1}\n", "a: 2020-01-01 12:00:00\nnull: 3\n",
                                  "text\n", "seed: [", "\x00", "42\n", "x: " + "y" * 2**21])  # fmt: skip
@pytest.mark.parametrize("way", [use, go_on], ids=["load", "ckpt"])
def test_a_file_that_is_no_settings(downloaded: Path, text: str, way: Callable[[Path], None]) -> None:
    (downloaded / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^Expected a run's settings in .*config.yaml, got a damaged file \([^\n]*\)"):
        way(downloaded)
    assert not (downloaded.parent / "executed").exists() and "run.evil" not in sys.modules


def test_the_pipeline_of_an_older_run_is_that_of_a_model_of_configs(downloaded: Path) -> None:
    name = os.path.relpath(downloaded / "evil", ROOT / "configs/model")
    (downloaded / "config.yaml").write_text(f"model: {{name: {name}}}\n")
    assert "pipeline" not in read_settings(downloaded / "config.yaml").model


def test_the_command_line_of_ckpt_knows_the_groups_of_the_run(downloaded: Path) -> None:
    ckpt = f"ckpt={downloaded}/checkpoints/vae.ckpt"
    groups = {
        "data": "vectors",
        "model": "dec",
        "experiment": None,
        "logger": "../../run/evil",
        "trainer": ["x"],
        "x": "y",
    }
    write(downloaded, {"groups": groups | {"name": "x"}})
    assert with_groups([ckpt, "k=3"]) == [ckpt, "k=3", "data=vectors", "model=dec"]
    assert with_groups(["data=faces", ckpt]) == ["data=faces", ckpt, "model=dec"]
    for arguments in (["seed=1"], ["ckpt=none"], ["ckpt=null"], ["ckpt="]):
        assert with_groups(arguments) == arguments


def test_settings_are_texts_that_nothing_is_put_into(downloaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "secret")
    for text in ("${oc.env:SECRET}", r"\${oc.env:SECRET}", r"a\\${user_cache:}", "${", "a${b}${c}"):
        write(downloaded, {"data": {"name": text}})
        settings = stored(downloaded / "config.yaml")
        assert settings.data.name == text
        (downloaded / "config.yaml").write_text(OmegaConf.to_yaml(settings, resolve=True))
        assert stored(downloaded / "config.yaml").data.name == text
        assert OmegaConf.create(as_text({"a": [text]})).a[0] == text


def test_what_configs_name_is_known_and_what_an_own_run_names_is_shown_but_not_built(downloaded: Path) -> None:
    known = named_in_configs()
    assert "datamodules.faces.faces" in known["data"] and known["vae"] == {"models.vae.VAE"}
    assert len(known[""]) > 40 and "evaluation.editing.pipeline.run_editing" in known["model"]
    write(downloaded, {"data": {"_target_": "mine.data"}})
    assert read_settings(downloaded / "config.yaml").data._target_ == "mine.data"
    with pytest.raises(UserError, match=r"got data._target_=mine.data: a run folder is data, .* name it in a file of"):
        stored(downloaded / "config.yaml")


@pytest.mark.parametrize("key", ["judge_model", "identity_model"])
def test_ckpt_runs_a_program_only_if_the_command_line_names_it(downloaded: Path, key: str) -> None:
    for value, names in (("a.pt", [key]), ({"glasses": "a.pt", "sex": "b.onnx"}, [f"{key}.glasses"])):
        settings = OmegaConf.create({key: value})
        with pytest.raises(UserError, match=rf"Expected {names[0]}=a.pt on this command line too, .* is a program"):
            check_files(settings, [])
        check_files(settings, names)
    for data in (None, "dlib", "a.onnx", "A.ONNX", {"glasses": "a.onnx"}):
        check_files(OmegaConf.create({key: data}), [])
    write(downloaded, {})
    settings = yaml.safe_load((downloaded / "config.yaml").read_text())
    (downloaded / "config.yaml").write_text(yaml.safe_dump(settings | {key: "run/evil.pt"}))
    with pytest.raises(UserError, match="a TorchScript file is a program"):
        go_on(downloaded)


CSV = {"_target_": "pytorch_lightning.loggers.CSVLogger", "_convert_": "all", "name": "csv", "version": None}
ELSEWHERE = [
    {"save_dir": "/home/someone"}, {"save_dir": "/runs/other"}, {"save_dir": "~"}, {"save_dir": "BEFORE/../x"},
    {"name": "../../x"}, {"version": "../x"}, {"name": "/x"}, {"tracking_uri": "http://example.org/BEFORE"},
    {"tracking_uri": "sqlite:////tmp/x.db"}, {"artifact_location": "/x"}, {"prefix": "x"}, {"entity": "x"},
    {"settings": {"base_url": "http://example.org"}}, {"save_dir": "BEFOREx"},
]  # fmt: skip


@pytest.mark.parametrize("change", ELSEWHERE)
def test_a_stored_logger_writes_into_the_run_folder_alone(tmp_path: Path, change: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    ((key, value),) = change.items()
    values = {key: value.replace("BEFORE", "/old/run") if isinstance(value, str) else value}
    settings = OmegaConf.create({"run_dir": "/old/run", "logger": {**CSV, "save_dir": "/old/run", **values}})
    with pytest.raises(UserError, match=f"Expected a logger that writes into {tmp_path}, got logger.{key}="):
        follow_folder(settings, tmp_path, [])
    follow_folder(settings, tmp_path, [f"logger.{key}"])


@pytest.mark.parametrize("before", ["/old/run", "runs/x"])
def test_the_logger_of_a_run_that_was_moved_follows_it(tmp_path: Path, before: str) -> None:
    logger = {**CSV, "save_dir": before, "tracking_uri": f"sqlite:///{before}/mlflow.db", "artifact_location": before}
    settings = OmegaConf.create({"run_dir": before, "logger": {**logger, "experiment_name": "faces/iin"}})
    follow_folder(settings, tmp_path, [])
    assert settings.logger.save_dir == settings.logger.artifact_location == str(tmp_path)
    assert settings.logger.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db" and settings.logger.name == "csv"
    follow_folder(OmegaConf.create({"run_dir": before, "logger": {}}), tmp_path, [])
