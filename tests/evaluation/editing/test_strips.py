"""The command that edits a finished run's images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.splits import TEST
from evaluation import edit
from evaluation.editing import strips
from evaluation.run import LoadedRun, load
from models import UserError

Answer = dict[str, Any]
GLASSES, SEX, HAT, SKIN = 0, 1, 3, 5


@pytest.fixture(scope="module")
def loaded(finished_run: Path) -> LoadedRun:
    return load(finished_run)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The command with json=true; its answer, read back."""

    def answer(*arguments: str) -> Answer:
        edit.main([f"run={finished_run}", "json=true", "n=4", f"out={tmp_path}", *arguments])
        return json.loads(capsys.readouterr().out)

    return answer


@pytest.fixture
def faces(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for path in paths:
        Image.fromarray(torch.randint(0, 255, (20, 30, 3), dtype=torch.uint8).numpy()).save(path)
    return [str(path) for path in paths]


def codes(answer: Answer) -> tuple[Tensor, dict[str, Tensor]]:
    after = {title: torch.tensor(rows) for title, rows in answer["codes"]["after"].items()}
    return torch.tensor(answer["codes"]["before"]), after


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-3, rtol=0)


def as_set(loaded: LoadedRun, codes: Tensor, factor: int, value: float) -> Tensor:
    """The codes of a binary factor after an edit: where it is set, but those that clearly show the value stay."""
    wanted, other = (loaded.iin.destination(factor, torch.full((1,), float(v)))[0, 0] for v in (value, 1 - value))
    column = codes[:, factor]
    return torch.where((column - wanted).abs() < (column - other).abs() / 2, column, wanted.expand_as(column))


def test_factor_is_set_and_all_else_stays(run: Callable[..., Answer], loaded: LoadedRun, tmp_path: Path) -> None:
    answer = run("factor=glasses", "value=1")
    before, after = codes(answer)
    wanted = before.clone()
    wanted[:, GLASSES] = as_set(loaded, before, GLASSES, 1)
    close(after["glasses: with"], wanted)
    test_ids = {loaded.data.ids[row] for row in loaded.data.rows(TEST).tolist()}
    assert len(answer["images"]) == 4 and set(answer["images"]) <= test_ids
    assert answer["figure"] == str(tmp_path / "set_glasses_with_test_seed_0_n_4.png") and answer["pictures"] == []
    # original, edit, truth: three images of 128 pixels, their gaps and the frame
    with Image.open(answer["figure"]) as figure:
        assert figure.size[0] == 3 * 128 + 16 + 4 + 24


def test_images_start_from_another_value(run: Callable[..., Answer], loaded: LoadedRun) -> None:
    table, test = loaded.data.factors, loaded.data.rows(TEST)
    ids = {row: loaded.data.ids[row] for row in test.tolist()}
    for value, word in ((1, "with"), (0, "without")):
        other = {name for row, name in ids.items() if table.values[row, GLASSES] != value}
        assert set(run("factor=glasses", f"value={word}", "n=10")["images"]) == other
    assert len(run("factor=glasses", "n=10")["images"]) == len(ids) == 10


def test_nobody_starts_from_another_value(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(run_copy)
    loaded.data.factors.values[:, GLASSES] = 1
    with pytest.raises(UserError, match=r"^Expected images of split=test that start without glasses: with, got none: "):
        strips.edit_run(loaded, strips.Options(str(run_copy), factor="glasses", value=1))


def test_decoded_edits_beside_the_reconstruction(run: Callable[..., Answer]) -> None:
    answer = run("factor=glasses", "value=1", "compose=none")
    assert Path(answer["figure"]).name == "set_glasses_with_compose_none_test_seed_0_n_4.png"
    with Image.open(answer["figure"]) as figure:
        assert figure.size[0] == 4 * 128 + 16 + 2 * 4 + 24  # original, reconstruction, edit, truth


def test_no_call_overwrites_anothers_picture(run: Callable[..., Answer], faces: list[str], tmp_path: Path) -> None:
    calls: list[tuple[str, ...]] = [
        ("factor=sex", f"value={value}", f"strength={strength}") for value in (0, 1) for strength in (1, 0.5)
    ]
    calls += [("factor=sex",), ("factor=sex", "seed=1"), ("factor=sex", "seed=1"), ("edits={sex:1,hat:0}",)]
    calls += [
        ("component=1", "values=[2]"),
        ("factor=sex", "donor=face000003"),
        ("factor=sex", f"out={tmp_path}/x.png"),
    ]
    names = [Path(run(*call)["figure"]).name for call in [*calls, calls[-1]]]
    assert len(set(names)) == len(names) and all((tmp_path / name).is_file() for name in names)
    assert names[1] == "set_sex_female_strength_0.5_test_seed_0_n_4.png"
    assert names[5:7] == ["set_sex_test_seed_1_n_4.png", "set_sex_test_seed_1_n_4_2.png"]
    assert names[7] == "set_sex_male_hat_without_test_seed_0_n_4.png"
    assert names[9] == "swap_sex_from_face000003_test_seed_0_n_4.png" and names[-2:] == ["x.png", "x_2.png"]


def test_photographs_are_also_written_whole(run: Callable[..., Answer], faces: list[str]) -> None:
    answer = run("factor=sex", f"images=[{','.join(faces)}]", "strength=0")
    assert Path(answer["figure"]).name == "set_sex_strength_0_a_and_1_more.png"
    names = [Path(path).name for path in answer["pictures"]]
    assert names == [f"{name}_sex_{value}_strength_0.png" for value in ("female", "male") for name in ("a", "b")]
    for path, original in zip(answer["pictures"], faces * 2, strict=True):
        with Image.open(path) as written, Image.open(original) as picture:
            assert written.size == (30, 20) and written.tobytes() == picture.tobytes()
    with Image.open(answer["figure"]) as figure:
        assert figure.size[0] == 3 * 256 + 16 + 4 + 24  # original and two edits
    assert (
        Path(run("component=2", "values=[-3]", f"images=[{faces[0]}]")["pictures"][0]).name == "a_component_2_at_-3.png"
    )


def test_value_by_its_word(run: Callable[..., Answer]) -> None:
    close(codes(run("factor=sex", "value=Male"))[1]["sex: male"], codes(run("factor=sex", "value=1"))[1]["sex: male"])


def test_factor_without_value_goes_to_each(run: Callable[..., Answer]) -> None:
    assert list(codes(run("factor=hat"))[1]) == ["hat: without", "hat: with"]
    assert len(codes(run("factor=skin"))[1]) == 2


def test_strength(run: Callable[..., Answer], loaded: LoadedRun) -> None:
    before, after = codes(run("factor=hat", "value=1", "strength=0.5"))
    close(after["hat: with"][:, HAT], (before[:, HAT] + loaded.iin.destination(HAT, torch.ones(1)).flatten()) / 2)
    before, after = codes(run("component=8", "values=[3]", "strength=0"))
    close(after["+3"], before)


def test_component_is_set_in_its_own_units(run: Callable[..., Answer], loaded: LoadedRun) -> None:
    answer = run("component=8", "values=[-3,0,2]")
    before, after = codes(answer)
    assert list(after) == ["−3", "0", "+2"]
    others = [i for i in range(10) if i != 8]
    for value, rows in zip((-3.0, 0.0, 2.0), after.values(), strict=True):
        share = 0.5 * (1 + torch.erf(torch.tensor(value) / 2**0.5))
        train = loaded.iin.encode(loaded.encode(loaded.data.images[loaded.data.rows(0)]))[:, 8]
        torch.testing.assert_close(rows[:, 8], torch.quantile(train, share).expand(4), atol=0.05, rtol=0)
        close(rows[:, others], before[:, others])
    assert len(codes(run("component=8"))[1]) == 7


def test_block_from_a_donor(run: Callable[..., Answer], loaded: LoadedRun, faces: list[str]) -> None:
    photograph = loaded.preprocessing.read([faces[0]])
    for donor, pixels in ((faces[0], photograph), (loaded.data.ids[3], loaded.data.images[3:4])):
        before, after = codes(run("factor=skin", f"donor={donor}"))
        before[:, SKIN] = loaded.iin.encode(loaded.encode(pixels))[:, SKIN]
        close(after["the donor's skin"], before)


def test_several_factors_one_after_the_other(run: Callable[..., Answer], loaded: LoadedRun) -> None:
    before, after = codes(run("edits={glasses:1,hat:without}"))
    before[:, GLASSES] = as_set(loaded, before, GLASSES, 1)
    close(after["glasses: with"], before)
    before[:, HAT] = as_set(loaded, before, HAT, 0)
    close(after["+ hat: without"], before)


def test_images_by_path(run: Callable[..., Answer], loaded: LoadedRun, faces: list[str]) -> None:
    answer = run("factor=sex", "value=0", f"images=[{','.join(faces)}]")
    assert answer["images"] == faces
    close(codes(answer)[0], loaded.iin.encode(loaded.encode(loaded.preprocessing.read(faces))))


def test_seed_chooses_the_images(run: Callable[..., Answer]) -> None:
    chosen = [run("component=0", "values=[0]", "split=validation", f"seed={seed}")["images"] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_prints_what_to_open(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit.main([f"run={run_copy}", "component=0", "values=[-1,1]", "n=2"])
    file = run_copy / "figures" / "set_component_0_at_-1_1_test_seed_0_n_2.png"
    assert capsys.readouterr().out == f"Open: {file}\n" and file.is_file()


def test_out_may_be_a_file(run: Callable[..., Answer], tmp_path: Path) -> None:
    assert run("component=0", "values=[0]", f"out={tmp_path / 'deep' / 'x.png'}")["figure"].endswith("deep/x.png")
    assert (tmp_path / "deep" / "x.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"Expected one of factor=, component= and edits=, got none: .*\(glasses, sex, smile, hat, beard, skin\)"),
        (["factor=sex", "component=1"], r"Expected one of factor=, .*, got factor and component"),
        (["factor=glases"], r"Expected a factor among glasses, .* Did you mean glasses\?"),
        (["edits={glasses:1,hatt:1}"], r"got 'hatt'\. Did you mean hat\?"),
        (["factor=glasses", "value=2"], r"Expected a value of glasses, 0 \(without\) or 1 \(with\), got '2'"),
        (["factor=glasses", "value=blue"], r"Expected a value of glasses, .*, got 'blue'"),
        (["factor=skin", "value=1.5"], r"Expected a value of skin, a number between .*, got '1\.5'"),
        (["component=10"], r"Expected component= between 0 and 9, the run's components, got 10"),
        (["component=-1"], r"Expected component= between 0 and 9, the run's components, got -1"),
        (["component=1", "value=1"], r"Expected values= with component=, got value="),
        (
            ["component=1", "values=[far]"],
            r"Expected a component's value as a number of standard deviations, got 'far'",
        ),
        (
            ["component=1", "values=[nan]"],
            r"Expected a component's value as a number of standard deviations, got 'nan'",
        ),
        (["factor=sex", "value=1", "donor=x"], r"Expected .* with factor=, got value= and donor="),
        (
            ["factor=sex", "donor=nobody"],
            r"Expected donor= to be an image file or an id of the run's data, got 'nobody'",
        ),
        (["factor=sex", "images=[none.png]"], r"Expected an image at none\.png, got no such file"),
        (["factor=sex", "images=[pyproject.toml]"], r"Expected an image at pyproject\.toml, got a file that cannot be"),
        (["factor=sex", "images=[]"], r"Expected at least one path in images=\[\.\.\.\], got none"),
        (["factor=sex", "split=tset"], r"Expected split=train, validation or test, got 'tset'\. Did you mean test"),
        (["factor=sex", "face=2"], r"^Expected photographs with face=, got face=2 alone: give their paths, images=\["),
        (["factor=sex", "compose=paste"], r"^Expected compose to be one of null, blend, .*, got paste\.$"),
        (
            ["factor=sex", "strength=nan"],
            r"^Expected strength= as a finite number, got nan: 1 is the full",
        ),
        (["factor=glases", "images=[none.png]"], r"Expected a factor among glasses, .* Did you mean glasses\?"),
        (["factor=glasses", "values=[]"], r"Expected at least one entry in values=, got none: name some"),
        (["component=1", "values=[]"], r"Expected at least one entry in values=, got none: name some"),
        (["edits={}"], r"Expected at least one entry in edits=, got none: name some"),
        (["factor=glasses", "values=[0,7]"], r"Expected a value of glasses, .*, got '7'"),
        (["factor=sex", "n=0"], r"Expected at least one image, got n=0 of 10 with split=test"),
    ],
)
def test_bad_input(run: Callable[..., Answer], arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)
