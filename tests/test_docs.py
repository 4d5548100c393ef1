"""The documentation builds as a site, without a warning, and its pages load nothing from a network."""

import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "datamodules", "training", "evaluation")


class Loads(HTMLParser):
    """Addresses that a page loads by itself; links that a reader follows are none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in ("script", "img", "iframe") or (tag == "link" and named.get("rel") != "canonical"):
            self.found += filter(None, [named.get("src"), named.get("href") if tag == "link" else None])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs (extra docs) is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    pages = [file.relative_to(ROOT / "docs").with_suffix(".html") for file in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 10 and all((site / page).is_file() for page in pages)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_on_its_packages_page(package: str, site: Path) -> None:
    page = (site / "api" / f"{package}.html").read_text()
    files = [file.relative_to(ROOT).with_suffix("") for file in (ROOT / package).rglob("*.py")]
    names = [".".join(file.parts) for file in files if file.name != "__init__"]
    assert [name for name in names if f'id="{name}"' not in page] == []


def test_help_texts_keep_their_columns(site: Path) -> None:
    page = re.sub("<[^>]+>", "", (site / "api" / "evaluation.html").read_text())
    assert "\n    factor=glasses value=1         set a factor to a value" in page


def test_examples_are_code(site: Path) -> None:
    page = (site / "api" / "datamodules.html").read_text()
    assert "&gt;&gt;&gt;" in page and not re.search(r"<blockquote>|<p>[^<]*&gt;&gt;&gt;", page)


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    for file in site.rglob("*.html"):
        loads = Loads()
        loads.feed(file.read_text())
        assert loads.found and not [address for address in loads.found if "//" in address], file


def test_the_citation_agrees_with_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
