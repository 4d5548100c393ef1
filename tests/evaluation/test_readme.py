"""What the README and the page about clusterings tell people to type works as it stands there."""

import importlib
import itertools
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from datamodules.faces import FACTORS
from datamodules.features import extract
from evaluation.clustering.pipeline import cluster
from evaluation.command import command as run_command
from evaluation.editing.editor import ImageEditor
from models.iin import IIN
from training.build import build
from training.run_folder import Run

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # as fitting.py asks, too
ROOT = Path(__file__).parents[2]
GROUPS = tuple(f"{folder.name}=" for folder in (ROOT / "configs").iterdir() if folder.is_dir())
PAGES = [(ROOT / name).read_text() for name in ("README.md", "docs/clustering.md")]
BLOCKS = [block for page in PAGES for block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)]
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    for line in block.splitlines()
    if language == "sh" and line.strip()
]


def arguments(*program: str) -> list[list[str]]:
    found = [command[len(program) :] for command in COMMANDS if command[: len(program)] == list(program)]
    assert found, f"The pages have no {' '.join(program)}."
    return found


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_bash_passes_every_command_on_as_written(tmp_path: Path) -> None:
    """Outside of quotes, bash expands {a,b} to two arguments."""
    lines = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    lines = [line for line in lines if shlex.split(line, comments=True)]
    script = "".join(f"printf '%s\\0' {line.partition('  #')[0].partition(' # ')[0]}\nprintf '\\n'\n" for line in lines)
    output = subprocess.run(
        ["/bin/bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert [line.split("\0")[:-1] for line in output.splitlines()] == [command for command in COMMANDS if command]


def test_make_has_the_targets() -> None:
    rules = (ROOT / "Makefile").read_text()
    for (target,) in arguments("make"):
        assert re.search(rf"^{target}:", rules, re.MULTILINE)


FACES, CELEBA, FOLDER = (f"datamodules.{name}.{name}" for name in ("faces", "celeba", "folder"))
VAE, PHOTOGRAPHS = {"encoder.name": "vae"}, {"vae.latent": 256, "guide.reading_weight": 100.0}
CLIP_ENCODER = {"model.name": "dec", "encoder._target_": "models.clip.CLIP"}
FAITHFUL = {"model.name": "iin", "iin.objective": "faithful"}
MADE_OF: dict[str, dict[str, Any]] = {
    "": FAITHFUL | VAE | {"data._target_": FACES, "data.n": 20000, "data.size": 64, "guide.reading_weight": 0.0},
    "data=celeba": FAITHFUL | VAE | PHOTOGRAPHS | {"data._target_": CELEBA},
    "data=celeba encoder=taesd3": FAITHFUL
    | {"encoder._target_": "models.sd_vae.TinyAutoencoder", "encoder.size": 64, "data.size": 64, "vae": None},
    "data=folder": FAITHFUL | VAE | PHOTOGRAPHS | {"data._target_": FOLDER},
    "model=dec data=folder": CLIP_ENCODER | {"data._target_": FOLDER, "data.size": 224, "k": 12},
    "model=dec data=cifar10": CLIP_ENCODER | {"data._target_": "datamodules.vision.cifar10"},
    "model=dec data=vectors": {"model.name": "dec", "data._target_": "datamodules.vectors.vectors", "k": 10},
    "model=turtle data=vectors": {"model.name": "turtle", "data._target_": "datamodules.vectors.vectors", "k": 10},
    "model=idec": {"model.name": "idec", "data._target_": "datamodules.vision.digits", "seeds": 10},
    "model=dec": {"model.name": "dec", "data._target_": "datamodules.vision.digits", "k": None}
    | {"encoder._target_": "models.backbones.Pixels"},
    "model=mds data=pairs": {"model.name": "mds", "data._target_": "datamodules.captions.pairs", "metric": None},
    "model=sae data=texts": {"model.name": "sae", "data._target_": "datamodules.texts.texts"}
    | {"encoder._target_": "models.sentence.Sentence"},
    "model=vae": VAE | {"model.name": "vae", "data._target_": FACES},
    "iin.objective=likelihood": VAE | {"model.name": "iin", "data._target_": FACES},
    "encoder=sd_vae": FAITHFUL | {"encoder._target_": "models.sd_vae.SDVAE", "encoder.size": 64, "vae": None},
}


def settings(command: list[str]) -> list[list[str]]:
    """A training command's settings run by run; several with -m, and only with it."""
    parsed = OverridesParser.create().parse_overrides([item for item in command if item != "-m"])
    sweeps = [
        list(o.sweep_string_iterator()) if o.is_sweep_override() else [o.get_value_element_as_str()] for o in parsed
    ]
    runs = [
        [f"{o.key_or_group}={value}" for o, value in zip(parsed, values, strict=True)]
        for values in itertools.product(*sweeps)
    ]
    assert (len(runs) > 1) == ("-m" in command)
    return runs


@pytest.mark.parametrize("command", arguments("python", "train.py"), ids=" ".join)
def test_every_training_command_is_the_configuration_it_says(command: list[str]) -> None:
    import train  # registers the resolver  # noqa: F401

    for overrides in settings(command):
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            config = compose("train", overrides)
        named = [item for item in command if not item.startswith("prompts=")]
        wanted = next((MADE_OF[key] for key in (" ".join(named[:2]), *named[:1]) if key in MADE_OF), MADE_OF[""])
        assert {key: OmegaConf.select(config, key) for key in wanted} == wanted
        for key, value in (item.split("=", 1) for item in overrides if not item.startswith(GROUPS)):
            assert OmegaConf.select(config, key) == OmegaConf.create("value: " + value.replace("\\", "")).value
        if config.data._target_ == FACES and config.model.name == "iin":
            factors: list[tuple[str, str, list[str]]] = [
                (factor.name, factor.kind, list(factor.values)) for factor in FACTORS
            ]
            made_with: Any = {key: value for key, value in config.iin.items() if not key.startswith("_")}
            sizes = None if config.iin.block_sizes is None else list(config.iin.block_sizes)
            made_with |= {"block_sizes": sizes, "betas": (0.9, 0.99), "blocks": 1, "width": 8}
            IIN(64, factors, **made_with)  # refuses what does not fit the factors


def test_a_sweep_is_a_run_per_value() -> None:
    (sweep,) = (command for command in arguments("python", "train.py") if "-m" in command)
    assert [run[-1] for run in settings(sweep)] == ["seed=1", "seed=2", "seed=3"]


@pytest.fixture
def here(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run and the picture that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/faces").mkdir(parents=True)
    (tmp_path / "runs/faces/iin").symlink_to(finished_run.parent)
    pixels = torch.randint(0, 255, (40, 30, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "me.png")
    return tmp_path


@pytest.mark.parametrize("options", arguments("python", "-m", "evaluation.edit"), ids=" ".join)
def test_every_edit_is_drawn(options: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evaluation.edit import main

    main([item.replace("face019900", "face000190") for item in options] + [f"out={here / 'edited'}"])
    picture = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("Open: "))
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 16


def main_of(name: str) -> Callable[[Sequence[str]], None]:
    """The function that `python -m name` runs, of a folder that of its `__main__`."""
    module = importlib.import_module(name)
    module = module if hasattr(module, "main") else importlib.import_module(f"{name}.__main__")
    found: Callable[[Sequence[str]], None] = module.main
    return found


SMALL = [
    "data.n=40", "autoencoder.hidden=[16]", "autoencoder.code=3", "trainer.autoencoder.epochs=1",
    "trainer.accelerator=cpu", *(f"trainer.{stage}.steps=10" for stage in ("dec", "turtle", "temi")),
]  # fmt: skip


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of clusterings, of a few digits."""
    folder = tmp_path_factory.mktemp("digits")
    places = [f"run_dir={folder / 'dec/first'}", f"cache_dir={folder / 'cache'}"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", ["model=dec", *SMALL, *places])
    data, encoder, run = build(config.data), build(config.encoder), Run(config.run_dir, config)
    run.manifest(data, encoder.identity, 0, "cpu")
    cluster(config, extract(data, encoder, config.cache_dir), run, torch.device("cpu"))
    run.save()
    return run.path


@pytest.mark.parametrize(
    ("name", "given"),
    [
        (name, given)
        for name in ("clustering", "tsne")
        for given in arguments("python", "-m", f"evaluation.{name}")
    ],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)  # fmt: skip
def test_the_commands_of_clusterings_answer(
    name: str, given: list[str], clustered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("runs/digits").mkdir(parents=True)
    Path("runs/digits/dec").symlink_to(clustered.parent)
    Path("RUN").symlink_to(clustered)
    Path("photos").mkdir()
    for file in ("new.png", "photos/another.png"):
        Image.fromarray(torch.randint(0, 255, (9, 12), dtype=torch.uint8).numpy()).save(file)
    answers = {"": "Open: ", "seeds": "±", "images": "cluster  certainty", "ks": "Suggested: k="}
    said = answers["".join(given[1:2]).partition("=")[0]]
    main_of(f"evaluation.{name}")([item.replace("seeds=10", "seeds=2") for item in given])
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("options", arguments("python", "-m", "evaluation.table"), ids=" ".join)
def test_every_table_is_printed(options: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evaluation.table import main

    for name in ("a", "b"):
        shutil.copytree(here / "runs/faces/iin/first", here / f"copies/{name}")
    main([item.replace("runs/faces/iin/", "copies/") for item in options])
    assert re.search(r"^\| time/total_s \| \d+\.\d{3} ± 0\.000 \|$", capsys.readouterr().out, re.MULTILINE)


def test_every_command_has_a_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    named = {module for command in COMMANDS for module in command if module.startswith("evaluation.")}
    assert {"evaluation.edit", "evaluation.table", "evaluation.benchmark"} <= named
    for name in named:
        main = main_of(name)
        monkeypatch.setattr("sys.argv", [name, "--help"])
        run_command(main)
        assert f"python -m {name}" in capsys.readouterr().out


def test_the_extras_it_names_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"-e '\.\[(\w+)\]'", (ROOT / "README.md").read_text()))
    assert named == {"diffusion", "faces", "identity", "text"} and named <= extras.keys()


def test_the_same_from_python(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def coloured(editor: ImageEditor, latents: torch.Tensor) -> torch.Tensor:
        """The untrained decoder's edits are fainter than a pixel value."""
        return (0.5 + 0.4 * (1000 * latents[:, :3]).sin())[:, :, None, None].expand(-1, -1, 16, 16)

    monkeypatch.setattr(ImageEditor, "decode", coloured)
    program, _ = (block for language, block in BLOCKS if language == "python")
    exec(program.replace("face019900", "face000190"), {})
    pictures = []
    for name in ("me_with_glasses.png", "me_component_2.png", "me_swapped.png"):
        with Image.open(here / name) as drawn:
            assert drawn.size == (30, 40), "the photograph's own size"
            pictures.append(drawn.tobytes())
    assert len(set(pictures)) == 3
    with Image.open(here / "strip.png") as strip:
        assert strip.size[0] > 3 * 256, "original and two edits"


def test_a_network_trains_in_a_trainer_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, program = (block for language, block in BLOCKS if language == "python")
    for as_written, small in (("max_steps=1000", "max_steps=2, logger=False"), ("n=2000, size=64", "n=200, size=16")):
        assert as_written in program
        program = program.replace(as_written, small)
    names: dict[str, Any] = {}
    exec(program.replace("VAE(size=64)", "VAE(size=16, width=4)"), names)
    assert names["trainer"].global_step == 2
