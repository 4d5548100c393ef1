"""The layout's rules: imports point one way, slow libraries load late, names and files stay as agreed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "datamodules", "training", "evaluation")
ALLOWED = {
    "models": {"models"},
    "datamodules": {"models", "datamodules"},
    "training": {"models", "datamodules", "training"},
    "evaluation": {"models", "datamodules", "training", "evaluation"},
}
SOURCES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(source: str) -> set[str]:
    """Top-level names of all imports, those inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def tracked_files() -> list[Path]:
    """What git tracks, or, in an unpacked archive, the sources."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        return [ROOT / path for path in SOURCES]
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_imported_sees_every_form() -> None:
    source = "import a.b as c\nfrom d.e import f\ndef g():\n    import h\n    from . import i\n"
    assert imported(source) == {"a", "d", "h"}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    project = {*PACKAGES, "train", "tests"}
    wrong = imported((ROOT / path).read_text()) & project - ALLOWED[path.parts[0]]
    assert not wrong, f"{path} imports {sorted(wrong)}: models <- datamodules <- training <- evaluation <- train.py"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_annotations_are_evaluated(path: Path) -> None:
    """The shape checks read annotations, which `from __future__ import annotations` would turn to strings."""
    assert "__future__" not in imported((ROOT / path).read_text())


@pytest.mark.parametrize("module", [".".join(path.with_suffix("").parts) for path in SOURCES])
def test_slow_and_optional_libraries_load_late(module: str) -> None:
    """No module imports these at its top: they take seconds, or belong to an extra."""
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    top = ast.Module([node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    slow = {"diffusers", "dlib", "huggingface_hub", "open_clip", "openTSNE", "plotly", "sentence_transformers", "umap"}
    assert not imported(ast.unparse(top)) & slow


def test_packages_are_light() -> None:
    """`import models, datamodules, training, evaluation` alone loads none of the heavy libraries."""
    heavy = {"torch", "torchvision", "matplotlib", "sklearn", "pandas", "pytorch_lightning", "diffusers"}
    code = f"import models, datamodules, training, evaluation, sys; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_folder_for_the_homeless() -> None:
    forbidden = {"src", "utils", "common", "helpers", "core"}
    names = {part for path in tracked_files() for part in (*path.relative_to(ROOT).parts[:-1], path.stem)}
    assert not names & forbidden


def test_no_download_address_is_tracked() -> None:
    """Packages are named and pinned, where they come from is the machine's affair."""
    hosts = ["py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org", "conda." + "anaconda.org"]
    options = ["--index" + "-url", "--extra-index" + "-url", "--find" + "-links"]
    pattern = re.compile("|".join(map(re.escape, hosts + options)).encode())
    found = {path.name: pattern.findall(path.read_bytes()) for path in tracked_files()}
    assert not {name: hits for name, hits in found.items() if hits}


def test_pins_are_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    wrong = [line for line in pins if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line)]
    assert not wrong, f"name==version and nothing else, not {wrong}"


EFFECTS = """
import importlib, logging, os, random, sys, warnings
import numpy, torch

def outside():
    loggers = ("root", "lightning", "lightning.pytorch", "pytorch_lightning", "lightning.fabric", "matplotlib", "PIL")
    return {
        "warnings.filters": list(warnings.filters),
        "loggers": {name: (logging.getLogger(name).level, len(logging.getLogger(name).handlers)) for name in loggers},
        "os.environ": dict(os.environ),
        "torch": (torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(),
                  torch.get_float32_matmul_precision(), torch.is_grad_enabled(),
                  torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
                  torch.backends.cudnn.deterministic),
        "random state": (torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), random.getstate()),
        "hooks": (sys.excepthook, sys.displayhook, logging.getLoggerClass()),
        "working directory": os.getcwd(),
    }

libraries, modules = (part.split(",") for part in sys.argv[1:])
for name in libraries:  # what these change on their own is theirs
    importlib.import_module(name)
before = outside()
for name in modules:
    importlib.import_module(name)
    after = outside()
    for what, value in after.items():
        if value != before[what]:
            print(name, "changes", what)
    before = after
"""


def test_importing_changes_nothing_outside() -> None:
    """Warnings, loggers, the environment, torch's settings and random states belong to commands, not to modules."""
    trees = [ast.parse((ROOT / path).read_text()) for path in (*SOURCES, Path("train.py"))]
    tops = [node for tree in trees for node in tree.body]
    libraries = {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
    libraries |= {node.module for node in tops if isinstance(node, ast.ImportFrom) and node.module}
    libraries = {name for name in libraries if name.split(".")[0] not in (*PACKAGES, "train")}
    modules = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]
    code = [sys.executable, "-c", EFFECTS, ",".join(sorted(libraries)), ",".join([*modules, "train"])]
    result = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == ""


def test_files_and_functions_are_short() -> None:
    """At most 350 lines a file and 60 a function, so that each is read at one sitting."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
