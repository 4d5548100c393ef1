"""What the README tells people to type works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    for line in block.splitlines()
    if language == "sh" and line.strip()
]


def arguments(*program: str) -> list[list[str]]:
    found = [command[len(program) :] for command in COMMANDS if command[: len(program)] == list(program)]
    assert found, f"The README has no {' '.join(program)}."
    return found


def test_make_has_the_targets() -> None:
    rules = (ROOT / "Makefile").read_text()
    for (target,) in arguments("make"):
        assert re.search(rf"^{target}:", rules, re.MULTILINE)


@pytest.mark.parametrize("overrides", arguments("python", "train.py"), ids=" ".join)
def test_every_training_command_is_a_configuration(overrides: list[str]) -> None:
    import train  # registers the resolver  # noqa: F401

    overrides = [item.replace("seed=1,2,3", "seed=1") for item in overrides if item != "-m"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", overrides)
    assert config.model.name in ("iin", "vae") and config.vae.latent > 0


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


def test_the_same_from_python(here: Path) -> None:
    (program,) = (block for language, block in BLOCKS if language == "python")
    exec(program.replace("face019900", "face000190"), {})
    pictures = []
    for name in ("me_with_glasses.png", "me_component_2.png", "me_swapped.png"):
        with Image.open(here / name) as drawn:
            assert drawn.size == (16, 16)
            pictures.append(drawn.tobytes())
    assert len(set(pictures)) == 3
    with Image.open(here / "strip.png") as strip:
        assert strip.size[0] > 4 * 128, "original, reconstruction and two edits"
