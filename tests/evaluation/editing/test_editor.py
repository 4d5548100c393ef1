"""Edits without a run folder."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from evaluation.editing.editor import ImageEditor
from evaluation.run import load
from models import UserError


@pytest.fixture(scope="module")
def editor(finished_run: Path) -> ImageEditor:
    run = load(finished_run)
    return ImageEditor(run.encoder, run.iin, run.iin.factors)


def test_an_editor_edits_as_its_run_does(editor: ImageEditor, finished_run: Path) -> None:
    run = load(finished_run)
    images = run.data.images[:3]
    for edited, expected in (
        (editor.edit(images, glasses=1, compose="none"), run.edit(images, glasses=1, compose="none")),
        (editor.set_component(images, 8, 3.0, compose="none"), run.set_component(images, 8, 3.0, compose="none")),
        (
            editor.swap(images, run.data.images[3:4], "sex", compose="none"),
            run.swap(images, run.data.ids[3], "sex", compose="none"),
        ),
    ):
        assert isinstance(edited, list) and isinstance(expected, list)
        assert [a.tobytes() for a in edited] == [b.tobytes() for b in expected]


def test_a_photograph_is_edited_in_its_middle_and_that_is_said(
    editor: ImageEditor, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Image.new("RGB", (40, 30), (200, 150, 90))
    edited = editor.edit(picture, glasses=1)
    assert isinstance(edited, Image.Image) and edited.size == (40, 30)
    assert "wherever its face is: no landmarks were given" in capsys.readouterr().out
    same = editor.edit(picture, {"glasses": 1}, strength=0.0)
    assert isinstance(same, Image.Image) and same.tobytes() == picture.tobytes()


def test_what_it_does_not_have(editor: ImageEditor) -> None:
    with pytest.raises(UserError, match=r"Expected a factor among glasses, .*, got 'hatt'\. Did you mean hat\?"):
        editor.edit(torch.zeros(3, 16, 16, dtype=torch.uint8), hatt=1)
    with pytest.raises(UserError, match="Expected a network that was trained with factors, got one without glasses"):
        ImageEditor(editor.encoder, editor.iin, ()).factor("glasses")
