"""The page of a map, in a real browser: what stands under the mouse, colours, search, selection, and no network."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from evaluation.maps import page as scatter_page
from evaluation.maps.page import sheets, write_page
from evaluation.maps.scatter import PALETTE, Map
from models import UserError
from tests.evaluation.browser import NO_WEBGL, WEBGL, Browser, open_browser

N = 40
NASTY = "</script><b>bold</b> & \"so\" 'on' /*{plotly}*/ \udce9"  # the last is a byte of a file's name that is no text

LABELS = ("<b>bold</b>", "<a href='https://example.org'>link</a>", "a<br>b", "H<sub>2</sub>O", "&lt;i&gt;", "5 < 6 > 4",
          "a & b", "<script>alert(1)</script>")  # fmt: skip


def points() -> pd.DataFrame:
    """Row i has id item_i, class i mod 4, and is unlabelled where i mod 10 is 9."""
    rows = np.arange(N)
    label = pd.Series([("ant", "bee", "cat", "dog")[i % 4] for i in rows]).where(rows % 10 != 9)
    ids = [f"item_{i:02d}" for i in rows[:-1]] + [NASTY]
    columns = {
        "id": pd.Series(ids, dtype=object),
        "label": label,
        "cluster": rows % 3,
        "weight": np.where(rows == 5, np.nan, rows / 4),
        "text": [f"sentence number {i}" for i in rows],
    }
    return pd.DataFrame(columns)


def pictures(side: int = 20) -> Tensor:
    """Image i is all of colour (6 i, 255 − 6 i, 100)."""
    colours = torch.tensor([[6 * i, 255 - 6 * i, 100] for i in range(N)], dtype=torch.uint8)
    return colours[:, :, None, None].expand(-1, -1, side, side).contiguous()


def grid(turned: bool = False) -> np.ndarray:
    """Eight points to a line, row i at (i mod 8, i // 8)."""
    places = np.stack([np.arange(N) % 8, np.arange(N) // 8], 1).astype(np.float32)
    return places[:, ::-1].copy() if turned else places


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "map.html"
    maps = {"features": Map(grid(), "how <it> was made"), "codes": Map(grid(turned=True))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scatter_page, "MOST_NAMES", 30)
        patch.setattr(scatter_page, "MOST_IMAGES", 39)
        write_page(path, maps, points(), pictures(), title="A <map>", notes=["a sample"])
    return path


def content(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def row_of(name: str) -> int:
    return int(name.removeprefix("item_")) if name.startswith("item_") else N - 1


def test_the_file_holds_every_point_once_and_everything_of_it(page: Path) -> None:
    data = content(page)
    rows = [row_of(name) for name in data["ids"]]
    assert sorted(rows) == list(range(N)) != rows
    axes = [np.frombuffer(base64.b64decode(axis), "<f4") for axis in data["maps"][0]["axes"]]
    assert (np.stack(axes, 1) == grid()[rows]).all()
    columns = {column["name"]: column for column in data["columns"]}
    assert [columns[name]["kind"] for name in ("label", "cluster", "weight", "text")] == [
        "classes", "classes", "scale", "text",
    ]  # fmt: skip
    codes = np.frombuffer(base64.b64decode(columns["label"]["codes"]), "<i2")
    assert [columns["label"]["names"][code] if code >= 0 else None for code in codes] == [
        points()["label"].astype(object).where(points()["label"].notna(), None)[row] for row in rows
    ]
    assert columns["text"]["values"] == [f"sentence number {row}" for row in rows]
    assert data["palette"] == list(PALETTE)


def test_the_page_stands_alone(page: Path) -> None:
    text = page.read_text()
    assert text.count("<script") == text.count("</script>") == 3 and "<b>bold" not in text
    assert "<title>A &lt;map&gt;</title>" in text and "default-src 'none'" in text
    assert re.findall(r"/\*\{(\w+)\}\*/", text) == ["plotly"], "all parts are filled in, and a user's text never"
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", text.split("<body>")[0])


@pytest.mark.parametrize(("side", "pitch"), [(20, 24), (48, 48), (100, 48)])
def test_sheets_keep_thumbnails_apart(side: int, pitch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatter_page, "ACROSS", 4)
    made = sheets(pictures(side), torch.arange(N).flip(0))
    assert (made["pitch"], made["side"], made["count"], len(made["files"])) == (pitch, min(side, 48), N, 3)
    for i in (0, 15, 16, 39):
        with Image.open(io.BytesIO(base64.b64decode(made["files"][i // 16]))) as sheet:
            left, top = i % 16 % 4 * pitch, i % 16 // 4 * pitch
            shown = np.asarray(sheet.crop((left, top, left + made["side"], top + made["side"]))).astype(int)
        row = N - 1 - i
        assert np.abs(shown - [6 * row, 255 - 6 * row, 100]).max() < 8, "the next thumbnail runs into this one"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Expected to write .*map.html"):
        write_page(tmp_path / "file" / "map.html", {"features": Map(grid())}, points())


@pytest.fixture(scope="module", params=[WEBGL, NO_WEBGL])
def browser(request: pytest.FixtureRequest, page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page, open and drawn."""
    with open_browser(tmp_path_factory.mktemp("browser"), request.param) as window:
        window.open(page)
        window.wait(lambda: window.run("return document.body.dataset.ready"), "the page to be drawn")
        assert window.run("return webgl") == (request.param == WEBGL)
        yield window


def place(browser: Browser, row: int, panel: int = 0) -> tuple[float, float]:
    """Where a row's point is in the window."""
    x, y = (grid(turned=bool(panel)))[row].tolist()
    left, top = browser.run(
        """const { plot } = maps[arguments[0]], box = plot.getBoundingClientRect(), { xaxis, yaxis } = plot._fullLayout;
        const x = xaxis._offset + xaxis.d2p(arguments[1]), y = yaxis._offset + yaxis.d2p(arguments[2]);
        return [box.left + x, box.top + y];""",
        panel, x, y,
    )  # fmt: skip
    return left, top


def text(browser: Browser, selector: str) -> str:
    return browser.run("return document.querySelector(arguments[0]).innerText", selector)


def hover(browser: Browser, row: int, panel: int = 0) -> None:
    name = points()["id"][row].encode(errors="replace").decode()
    browser.move(5, 5)
    browser.wait(lambda: browser.run("return tip.hidden"), "the last card to go")
    browser.move(*place(browser, row, panel))
    browser.wait(lambda: name[:20] in text(browser, "#tip b"), f"the card of {name}")


def drawn_colours(browser: Browser) -> dict[int, str]:
    """The colour of each row's point on the first map."""
    colours = browser.run("return [data.ids, maps[0].plot.data[0].marker.color]")
    return {row_of(name): colour for name, colour in zip(*colours, strict=True)}


def rgba(hex_colour: str, alpha: str) -> str:
    return f"rgba({','.join(str(int(hex_colour[i : i + 2], 16)) for i in (1, 3, 5))},{alpha})"


@pytest.mark.parametrize(("row", "panel"), [(0, 0), (18, 0), (18, 1)])
def test_a_point_under_the_mouse_shows_what_it_is(browser: Browser, row: int, panel: int) -> None:
    hover(browser, row, panel)
    card = text(browser, "#tip")
    assert f"item_{row:02d}" in card and f"sentence number {row}" in card
    assert points()["label"][row] in card and f"{row / 4:g}" in card
    pixel = browser.wait(
        lambda: browser.run(
            "const d = document.querySelector('#tip canvas')?.getContext('2d').getImageData(56, 56, 1, 1).data;"
            "return d && d[3] ? [...d] : null"
        ),
        "the thumbnail",
    )
    assert np.abs(np.array(pixel[:3]) - [6 * row, 255 - 6 * row, 100]).max() < 10


def test_the_point_is_marked_on_the_other_map(browser: Browser) -> None:
    hover(browser, 13)
    rings = browser.run("return maps.map(m => { const b = m.ring.getBoundingClientRect(); "
                        "return m.ring.hidden ? null : [b.left + b.width / 2, b.top + b.height / 2]; })")  # fmt: skip
    assert rings[0] is None
    assert rings[1] == pytest.approx(place(browser, 13, 1), abs=1.5)


def test_what_has_no_thumbnail_says_so(browser: Browser) -> None:
    last = browser.run("return data.ids.length - 1")
    name = browser.run("return data.ids[arguments[0]]", last)
    hover(browser, row_of(name))
    assert "no thumbnail" in text(browser, "#tip")
    assert "39 of them, drawn at random, have a thumbnail" in text(browser, "#facts")


def test_text_of_a_user_stays_text(browser: Browser) -> None:
    hover(browser, N - 1)
    assert "</script><b>bold</b> & \"so\" 'on'" in text(browser, "#tip b")
    assert browser.run("return document.querySelectorAll('#tip b b').length") == 0
    assert text(browser, "h1") == "A <map>" and "how <it> was made" in text(browser, ".map")


def test_colours_follow_the_menu(browser: Browser) -> None:
    choose = "const m = document.querySelector('#colour'); m.value = arguments[0]; m.dispatchEvent(new Event('change'))"
    assert browser.run("return [...document.querySelectorAll('#colour option')].map(o => o.value)") == [
        "label", "cluster", "weight",
    ]  # fmt: skip
    browser.run(choose, "label")
    colours = drawn_colours(browser)
    assert colours[0] == rgba(PALETTE[0], "0.88") and colours[1] == rgba(PALETTE[1], "0.88")
    assert colours[9] == colours[19] not in {rgba(colour, "0.88") for colour in PALETTE}
    assert "ant\n" in text(browser, "#legend") and "unlabelled\n4" in text(browser, "#legend")
    browser.run(choose, "cluster")
    colours = drawn_colours(browser)
    assert colours[0] == colours[3] == rgba(PALETTE[0], "0.88") and colours[2] == rgba(PALETTE[2], "0.88")
    browser.run(choose, "weight")
    colours = drawn_colours(browser)
    assert colours[0] == rgba("#440154", "0.88") and colours[39] == rgba("#fde725", "0.88")
    browser.run(choose, "label")


def test_a_class_of_the_legend_stands_alone(browser: Browser) -> None:
    browser.run("document.querySelectorAll('.entry')[2].click()")
    colours = drawn_colours(browser)
    assert colours[2] == rgba(PALETTE[2], "0.88") and colours[0] == rgba(PALETTE[0], "0.07")
    browser.move(*place(browser, 0))
    browser.move(*place(browser, 2))
    browser.wait(lambda: text(browser, "#tip b") == "item_02", "the card of a point that is shown")
    browser.run("document.querySelector('#legend .link').click()")
    assert drawn_colours(browser)[0] == rgba(PALETTE[0], "0.88")


@pytest.mark.parametrize(("words", "rows"), [("item_1", range(10, 20)), ("SENTENCE number 7", [7]), ("zebra", [])])
def test_search_leaves_what_it_finds(browser: Browser, words: str, rows: range | list[int]) -> None:
    box = browser.driver.find_element("id", "search")
    box.send_keys(words)
    browser.wait(lambda: f"{len(rows)} found" in text(browser, "#found"), "the search")
    bright = {row for row, colour in drawn_colours(browser).items() if colour.endswith(",0.88)")}
    assert bright == set(rows)
    box.clear()
    box.send_keys(" ")
    browser.wait(lambda: not text(browser, "#found"), "the search to end")
    assert all(colour.endswith(",0.88)") for colour in drawn_colours(browser).values())


def test_a_selection_shows_on_both_maps_and_in_the_tray(browser: Browser) -> None:
    browser.run("Plotly.relayout(maps[0].plot, {dragmode: 'select'})")
    (left, top), (right, bottom) = place(browser, 8), place(browser, 18)  # rows 8, 9, 10 and 16, 17, 18
    browser.drag((left - 9, top + 9), (left + 5, top - 5), (right + 9, bottom - 9))
    browser.wait(lambda: "6 selected" in text(browser, "#tray"), "the selection")
    bright = {row for row, colour in drawn_colours(browser).items() if not colour.endswith(",0.07)")}
    assert bright == {8, 9, 10, 16, 17, 18}
    assert browser.run("return maps[1].plot.data[0].marker.color.filter(c => !c.endsWith(',0.07)')).length") == 6
    assert browser.run("return document.querySelectorAll('#tray .thumbs canvas').length") >= 5
    browser.run("document.querySelector('#tray .link').click()")
    assert browser.run("return document.querySelector('#tray').hidden")
    browser.run("Plotly.relayout(maps[0].plot, {dragmode: 'pan'})")


def test_one_map_can_be_seen_alone(browser: Browser) -> None:
    show = "const v = document.querySelector('#view'); v.value = arguments[0]; v.dispatchEvent(new Event('change'))"
    widths = "return maps.map(m => m.card.getBoundingClientRect().width)"
    both = browser.run(widths)
    browser.run(show, "2")
    alone = browser.run(widths)
    assert alone[0] == 0 and alone[1] > 1.8 * both[1]
    browser.run(show, "0")
    assert browser.run(widths) == both


def test_nothing_is_asked_of_the_network_and_nothing_fails(browser: Browser, page: Path) -> None:
    """After all of the above."""
    assert browser.requests() == [page.as_uri()]
    assert browser.errors() == []


def test_names_are_no_markup_where_there_is_no_webgl(tmp_path: Path) -> None:
    names = [LABELS[row] if row < len(LABELS) else "" for row in range(N)]
    write_page(tmp_path / "map.html", {"features": Map(grid(), names=names)}, points())
    with open_browser(tmp_path, NO_WEBGL) as window:
        window.open(tmp_path / "map.html")
        window.wait(lambda: window.run("return document.body.dataset.ready"), "the page to be drawn")
        drawn = "return [...document.querySelectorAll('.plot text')].map(label => label.textContent)"
        window.wait(lambda: set(window.run(drawn)) >= set(LABELS), "the names as they are")
        assert window.run("return document.querySelectorAll('.plot a, .plot b, .plot tspan[style]').length") == 0


def test_a_map_in_three_dimensions(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
    shown = Map(cube, names=[LABELS[row] if row < len(LABELS) else "" for row in range(N)])
    write_page(tmp_path / "map.html", {"features": shown}, points().drop(columns="text"))
    with open_browser(tmp_path, WEBGL) as window:
        window.open(tmp_path / "map.html")
        window.wait(lambda: window.run("return document.body.dataset.ready"), "the page to be drawn")
        assert window.run("return maps[0].plot.data[0].type") == "scatter3d"
        drawn = window.run("return maps[0].plot.data[0].text")
        assert {name.replace("<\u200b", "<") for name in drawn} == {*LABELS, ""}
        assert not re.search("<[^\u200b]", " ".join(drawn)), "WebGL would read a tag"
        box = window.run("const b = maps[0].plot.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]")
        left, top, right, bottom = map(round, box)

        def blue_pixels() -> np.ndarray:
            shot = Image.open(io.BytesIO(window.driver.get_screenshot_as_png())).convert("RGB")
            pixels = np.asarray(shot.crop((left, top, right, bottom))).astype(int)
            return np.argwhere((pixels[..., 2] > 180) & (pixels[..., 0] < 100) & (pixels[..., 1] < 170))

        assert len(window.wait(lambda: blue_pixels().tolist(), "points of the first class")) > 50
        places = iter(np.random.default_rng(0).permutation(blue_pixels()))

        def card() -> str:
            y, x = next(places)
            window.move(left + x, top + y)
            return text(window, "#tip")

        window.wait(lambda: "ant" in card(), "the card of a point of the first class")
        assert window.run("return tip.getBoundingClientRect().top") < bottom
        assert window.run("return document.querySelector('#view-box').offsetHeight") == 0, "nothing to choose from"
        assert window.errors() == []
