"""report.html: one page that stands alone, right in what it marks and silent about what is not there."""

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from evaluation.report import __main__ as report
from evaluation.report import html
from evaluation.report.page import timings, write_report
from evaluation.report.tables import HEADINGS
from models import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EMPTY = {"meta", "img", "br", "link"}
METRICS = {
    "edit/glasses/success": 0.95, "edit/glasses/leakage": 0.02, "edit/glasses/counterfactual": 0.6,
    "edit/glasses/cycle_error": 2e-6, "edit/sex/success": 0.5, "edit/sex/leakage": 0.1,
    "baseline/mean_difference/glasses/success": 0.97, "baseline/mean_difference/glasses/leakage": 0.05,
    "baseline/mean_difference/glasses/counterfactual": 0.3, "oracle/glasses/counterfactual": 0.8,
    "judge/glasses/balanced_accuracy": 0.99, "judge/sex/balanced_accuracy": 0.7,
    "reconstruction/psnr": 27.3, "time/total_s": 400.0, "time/vae_s": 100.0, "time/iin_s": 300.0,
    "throughput/iin_per_s": 2000.0, "memory/peak_mib": 900.0,
}  # fmt: skip
MANIFEST = {
    "created": "2025-11-22 07:00:00", "seed": 3, "device": "cpu",
    "encoder": {"name": "vae", "sha256": "0123456789abcdef", "random_weights": False},
    "data": {"name": "celeba", "size": 64, "splits": {"train": 4799, "test": 559}, "skipped": ["000007.jpg"],
             "factors": [{"name": "glasses", "source": "Eyeglasses"}],
             "notes": ["race is Pale_Skin here <b>& no race</b>"]},
}  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and text; raises on a tag that is closed out of order or never."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("seed: 3\nmodel:\n  name: iin\nnote: <script>alert(1)</script>\n")
    return tmp_path


@pytest.fixture
def full(folder: Path) -> Path:
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    matrix: dict[str, Any] = {"flow": [[None, 0.02], [0.1, None]]}
    (folder / "measurements.json").write_text(json.dumps({"factors": ["glasses", "sex"], "leakage": matrix}))
    (folder / "figures").mkdir()
    for i, name in enumerate(("edit_glasses", "edit_sex", "component_2", "component_10", "samples", "set_hat")):
        Image.new("RGB", (20 + i, 10), "red").save(folder / "figures" / f"{name}.png")
    return folder


@pytest.fixture
def page(full: Path) -> Page:
    return Page(write_report(full).read_text())


def rows(text: str) -> list[list[str]]:
    """The comparison table's cells, the best ones with a star."""
    table = text[text.index("<table>") : text.index("</table>")]
    cells = [re.findall(r"<td([^>]*)>(.*?)</td>", row) for row in table.split("<tr")[2:]]
    return [[value + ("*" if "best" in kind else "") for kind, value in row] for row in cells]


def test_stands_alone(page: Page) -> None:
    """Nothing is loaded from anywhere: no scripts, no links, every image inside."""
    assert not {tag for tag, _, _ in page.attributes} & {"script", "link", "iframe", "a", "object"}
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset")]
    assert len(sources) == 7 and all(source.startswith("data:image/png;base64,") for source in sources)
    widths = []
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            widths.append(image.size[0])
    assert widths[:2] == [20, 21], "the strips come first, in the factors' order"
    assert [width for width in widths if width < 40] == [20, 21, 22, 23, 24, 25], "component 2 before component 10"
    assert "@import" not in html.STYLE.read_text() and "url(" not in html.STYLE.read_text()


def test_headline(page: Page) -> None:
    text = page.text
    assert text.startswith("Facet: celeba")
    assert "celeba · iin 2025-11-22 07:00:00 · 4,799 train, 559 test images of 64×64" in text
    assert "encoder vae 0123456789ab · seed 3 · cpu" in text
    assert "success 0.950 mean difference 0.970" in text, "the mean leaves out what cannot be judged"
    assert "counterfactual 0.600 mean difference 0.300 oracle 0.800" in text
    assert "the whole run 6.7 min" in text


def test_headline_compares_means_of_the_same_factors(full: Path) -> None:
    metrics = {**METRICS, "judge/sex/balanced_accuracy": 0.9, "edit/glasses/leakage_at_90": 0.2,
               "edit/sex/leakage_at_90": 0.8, "baseline/mean_difference/sex/leakage_at_90": 0.6}  # fmt: skip
    (full / "metrics.json").write_text(json.dumps(metrics))
    text = Page(write_report(full).read_text()).text
    assert f"{HEADINGS['leakage_at_90']}, 1 of 2 factors 0.800 mean difference 0.600" in text
    del metrics["baseline/mean_difference/sex/leakage_at_90"]
    metrics["baseline/linear_svm/hat/leakage_at_90"] = 0.1  # of a factor that the flow lacks
    (full / "metrics.json").write_text(json.dumps(metrics))
    text = Page(write_report(full).read_text()).text
    assert f"{HEADINGS['leakage_at_90']}, 2 of 3 factors 0.500" in text


def test_comparison_marks_the_better(full: Path) -> None:
    table = rows(write_report(full).read_text())
    assert table == [
        ["flow", "0.950", "0.020*", "0.600*", "2.0e-06"],
        ["mean difference", "0.970*", "0.050", "0.300", ""],
        ["oracle", "", "", "0.800", ""],
        ["flow", "0.500", "0.100", "", ""],
    ]


def test_weak_judges_are_flagged(page: Page) -> None:
    assert page.text.count("cannot be judged") == 2, "in the table and at the strip"
    assert "sex judge 0.700 cannot be judged" in page.text
    assert "glasses judge 0.990 flow" in page.text


def test_nothing_is_best_on_a_factor_that_cannot_be_judged(full: Path) -> None:
    metrics = METRICS | {"baseline/mean_difference/sex/success": 0.6, "baseline/mean_difference/sex/leakage": 0.2}
    (full / "metrics.json").write_text(json.dumps(metrics))
    table = rows(write_report(full).read_text())
    assert [cell for row in table[3:] for cell in row if "*" in cell] == [] and len(table) == 5
    assert [cell for row in table[:3] for cell in row if "*" in cell] != []


FINALS = {
    "edit/glasses/success": 0.95, "edit/glasses/effectiveness": 0.9, "edit/glasses/final_leakage": 0.03,
    "edit/glasses/identity_distance": 0.3,
    "edit/glasses/effectiveness_net": 0.99, "edit/glasses/effectiveness_hog": 0.7,
    "baseline/mean_difference_2/glasses/effectiveness": 0.83, "baseline/mean_difference_2/glasses/final_leakage": 0.02,
    "composition/null_edit": 0.0, "reversibility/glasses": 0.0123,
}  # fmt: skip


def test_final_pictures_of_photographs_come_first(full: Path) -> None:
    (full / "metrics.json").write_text(json.dumps(FINALS))
    text = write_report(full).read_text()
    assert rows(text) == [
        ["flow<br><span class=muted>net 0.99, hog 0.70</span> <span class='badge warn'>members disagree</span>",
         "0.900*", "0.030", "0.300"],
        ["mean difference × 2", "0.830", "0.020*", ""],
    ]  # fmt: skip
    page = Page(text)
    assert "effectiveness : share of final pictures on which the judge sees the target value" in page.text
    assert "identity distance : Euclidean" in page.text and "FID" not in page.text, "a sentence for what there is"
    assert "reversibility: glasses edited and reversed 0.0123" in page.text
    assert page.text.index("Edits glasses effectiveness 0.900") < page.text.index("Final pictures against")
    assert "effectiveness 0.900 mean difference × 2 0.830" in page.text, "the headline"


def test_sources_notes_and_times(page: Page) -> None:
    assert "labels from Eyeglasses" in page.text
    assert "race is Pale_Skin here <b>& no race</b>" in page.text, "text stays text"
    assert "1 unreadable images were left out: 000007.jpg" in page.text
    assert "iin 5.0 min 2,000 per s" in page.text
    assert ("span", "style", "width:75.0%") in page.attributes
    assert "<script>alert(1)</script>" in page.text


def test_times_of_seeds_are_summed_and_those_of_layers_are_not() -> None:
    times = {"time/dec_s": 60.0, "time/dec_1_s": 120.0, "time/layer_1_s": 60.0, "time/layer_1_10_s": 0.0}
    text = Page(timings(times | {"time/layer_2_s": 300.0, "throughput/dec_per_s": 7.0})).text
    assert "dec 3.0 min 7 per s" in text and "layer 1 60.0 s" in text and "layer 2 5.0 min" in text


def test_a_run_of_an_autoencoder_alone(folder: Path) -> None:
    (folder / "metrics.json").write_text(json.dumps({"reconstruction/psnr": 27.3, "kl": 60.0}))
    page = Page(write_report(folder).read_text())
    assert "reconstruction, dB 27.3" in page.text and "kl 60" in page.text
    for missing in ("baselines", "Edits", "Samples", "Leakage", "About", "Training", "None"):
        assert missing not in page.text


def test_a_short_run_says_so_first(full: Path, page: Page) -> None:
    assert "QUICK RUN" not in page.text
    with (full / "config.yaml").open("a") as file:
        file.write("trainer:\n  scale: 0.02\n")
    text = Page(write_report(full).read_text()).text
    assert "QUICK RUN: it was trained for 0.02 of the steps" in text[: text.index("success")]


def test_rebuilt_by_the_command(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([f"run={full}"])
    assert capsys.readouterr().out == f"Open: {full / 'report.html'}\n"
    assert (full / "figures" / "leakage_matrix.png").is_file()
    report.main([f"run={full}", "json=true"])
    assert json.loads(capsys.readouterr().out) == {"files": [str(full / "report.html")]}


def test_no_name_of_a_run_is_markup(full: Path) -> None:
    evil = '<script>alert(1)</script><b x="y">'
    (full / "metrics.json").write_text(json.dumps({
        key.replace("{}", evil): 0.5
        for key in ("edit/{}/success", "edit/{}/effectiveness_{}", "judge/{}/balanced_accuracy", "time/{}_s", "{}",
                    "{}/used_clusters", "{}/{}/ari", "heldout/{}/ari", "reversibility/{}", "baseline/{}/{}/success")
    }))  # fmt: skip
    described = {"name": evil, "notes": [evil], "skipped": [evil], "splits": {evil: 1}, "factors": [{"name": evil}]}
    manifest = {"data": described, "encoder": {"name": evil}, "created": evil, "device": evil, "seed": evil}
    (full / "manifest.json").write_text(json.dumps(manifest | {"command": evil, "versions": {evil: evil}}))
    table = {"method": ["full", evil], "dim": 2, "direction": evil, "r1": 0.5, "against": evil, "p": 0.5}
    pd.DataFrame(table).assign(difference_low=0.1).to_csv(full / "retrieval.csv", index=False)
    Image.new("RGB", (9, 9)).save(full / "figures" / "<b>bold<b>.png")
    html = write_report(full).read_text()
    assert "&lt;script&gt;" in html and "<script" not in html and '<b x="y">' not in html and "<b>bold" not in html
    assert "default-src 'none'" in html  # nothing is fetched, and no script runs


@pytest.mark.parametrize("name", ["metrics.json", "manifest.json", "measurements.json"])
def test_damaged_file(folder: Path, name: str) -> None:
    (folder / name).write_text('{"a": ')
    with pytest.raises(UserError, match=rf"Expected JSON in .*{name}, got"):
        write_report(folder)


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Expected a run folder at .*nowhere, got no such folder"):
        report.main([f"run={tmp_path / 'nowhere'}"])


@pytest.fixture
def browser(tmp_path: Path) -> Callable[[Path], str]:
    if CHROMIUM is None:
        pytest.skip("no chromium here to open the page with")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip

    def rendered(page: Path) -> str:
        command = [str(CHROMIUM), *flags, "--dump-dom", page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return rendered


def test_a_browser_shows_it(full: Path, browser: Callable[[Path], str]) -> None:
    shown = browser(write_report(full))
    assert "The flow against the baselines" in shown and shown.count("<img") == 7
