"""Names in any script on figures."""

import pytest
from matplotlib.figure import Figure

from evaluation.drawing.figures import png_of
from evaluation.drawing.fonts import characters_of, fonts_for

OF_NO_FONT = chr(0x10FFFD)


def of_another_font() -> str:
    """Find a character that one of matplotlib's further fonts has and its default font lacks."""
    from matplotlib.font_manager import findfont

    default, other = (characters_of(findfont(family)) for family in ("DejaVu Sans", "STIXNonUnicode"))
    return chr(min(code for code in other - default if code > 0x3000))


def titled(title: str) -> Figure:
    drawing = Figure((2, 1))
    axes = drawing.add_subplot()
    axes.set_yticks([0.5], [title])  # a tick's text is only known once the figure is drawn
    return drawing


def test_a_character_is_drawn_in_a_font_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    character = of_another_font()
    families, missing = fonts_for("glasses " + character)
    assert families[0] == "DejaVu Sans" and len(families) == 2 and not missing
    drawing = titled(character)
    png_of(drawing)
    assert drawing.axes[0].get_yticklabels()[0].get_fontfamily() == families
    assert capsys.readouterr().err == ""


def test_a_character_that_no_font_has_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        png_of(titled(OF_NO_FONT))
    message = capsys.readouterr().err
    assert message.count("No installed font has the characters") == 1 and OF_NO_FONT in message
    assert "fonts-noto-cjk" in message


def test_names_with_dollars_are_no_formulas() -> None:
    from evaluation.drawing.figures import figure

    with figure(None, 2.0, 1.0) as drawing:
        text = drawing.text(0, 0, "$1_000 to $2_000")
    assert not text.get_parse_math() and png_of(drawing)
