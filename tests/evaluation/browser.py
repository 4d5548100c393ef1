"""A headless Chromium that tests open pages in and drive by mouse and keyboard."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

__all__ = ["Browser", "open_browser"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WEBGL, NO_WEBGL = "--enable-unsafe-swiftshader", "--disable-3d-apis"
PATIENCE = 60.0  # seconds
T = TypeVar("T")
OF_THE_BROWSER = ("chrome:", "chrome-untrusted:")  # its own pages, a new tab's for one


class Browser:
    """One window. What a page logs and asks the network for is kept from its opening on."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path) -> None:
        self.driver.get_log("browser"), self.driver.get_log("performance")  # what came before
        self.driver.get(page.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], T], what: str) -> T:
        """The first true value of a condition; the test fails where none comes."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what}; log: {self.errors()}")

    def move(self, x: float, y: float) -> None:
        """The mouse to a place in the window, in two steps: some pages want to see it move."""
        from selenium.webdriver.common.action_chains import ActionBuilder

        for offset in (3, 0):
            actions = ActionBuilder(self.driver, duration=20)
            actions.pointer_action.move_to_location(round(x) + offset, round(y))
            actions.perform()

    def drag(self, *corners: tuple[float, float]) -> None:
        """The mouse, its button down, from corner to corner."""
        from selenium.webdriver.common.action_chains import ActionBuilder

        actions = ActionBuilder(self.driver, duration=30)
        actions.pointer_action.move_to_location(*map(round, corners[0])).pointer_down()
        for corner in corners[1:]:
            actions.pointer_action.move_to_location(*map(round, corner))
        actions.pointer_action.pointer_up()
        actions.perform()

    def errors(self) -> list[str]:
        """What the page complained of; what the graphics driver says of its own speed is no complaint."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE" or entry["source"] != "rendering"]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, without those that hold their content and the browser's own."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        pages = [each["request"]["url"] for each in sent if not each["documentURL"].startswith(OF_THE_BROWSER)]
        return [address for address in pages if not address.startswith(("data:", "blob:"))]


@contextmanager
def open_browser(folder: Path, *flags: str, width: int = 1300, height: int = 850) -> Iterator[Browser]:
    """A browser with a profile of its own below the folder; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium with its chromedriver here to open the page with")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
