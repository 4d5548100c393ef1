"""Draw the characters of any script: matplotlib's font has no Chinese, Japanese, Korean or Hindi ones."""

import io
import sys
import warnings
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # slow to load
    from matplotlib.figure import Figure

__all__ = ["fonts_for", "rendered"]

FAMILY = "DejaVu Sans"  # comes with matplotlib


@cache
def characters_of(path: str) -> frozenset[int]:
    """Return the code points that a font file has a glyph for."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a file that FreeType cannot read
        return frozenset()


@cache
def font_files() -> list[tuple[str, str]]:
    """List the names and files of all fonts, upright and of normal weight first."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {font.fname for font in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in known:  # installed since matplotlib listed the fonts
            with suppress(OSError, RuntimeError, ValueError):
                fontManager.addfont(path)
    fonts = sorted(fontManager.ttflist, key=lambda font: (font.style, abs(int(font.weight) - 400), font.name))
    return [(font.name, font.fname) for font in fonts if not font.name.startswith("Last Resort")]  # it has only boxes


@cache
def fonts_for(text: str) -> tuple[list[str], str]:
    """Return the font families that together have the characters of a text, matplotlib's first, and those none has."""
    from matplotlib.font_manager import findfont

    missing = {ord(character) for character in text if not character.isspace()} - characters_of(findfont(FAMILY))
    families = [FAMILY]
    for name, path in font_files() if missing else []:
        if missing and name not in families and (found := missing & characters_of(path)):
            missing -= found
            families.append(name)
    return families, "".join(map(chr, sorted(missing)))


@cache
def report(characters: str) -> None:
    """Print, once for the same characters, that no installed font has them."""
    print(
        f"No installed font has the characters {characters}, which figures show as boxes: install fonts, such as the "
        "packages fonts-noto-cjk (Chinese, Japanese, Korean) and fonts-noto-core (other scripts).",
        file=sys.stderr,
    )


def png(drawing: "Figure", dpi: int) -> tuple[bytes, bool]:
    """Return a figure as a PNG, and whether its fonts lack a character."""
    file = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drawing.savefig(file, format="png", dpi=dpi)
    lacking = [each for each in caught if "missing from" in str(each.message)]
    for each in caught:
        if each not in lacking:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return file.getvalue(), bool(lacking)


def rendered(drawing: "Figure", dpi: int) -> bytes:
    """Return a figure as a PNG; characters that matplotlib's font lacks are drawn in an installed one that has them.

    If there is none, a line on the standard error names the characters and packages of fonts.
    """
    from matplotlib.text import Text

    content, lacking = png(drawing, dpi)
    if not lacking:
        return content
    texts = [text for text in drawing.findobj(Text) if isinstance(text, Text)]
    families, missing = fonts_for("".join(sorted(set("".join(text.get_text() for text in texts)))))
    for text in texts:
        text.set_fontfamily(families)
    if missing:
        report(missing)
    return png(drawing, dpi)[0]
