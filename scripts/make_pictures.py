"""The README's pictures, made again from a real run: the printed table as SVG, the page as PNG.

    python scripts/make_pictures.py                  # runs the quickstart, then draws it
    python scripts/make_pictures.py runs/quickstart  # draws a run that exists

Writes results/pictures/. Needs what the tests need: selenium (scripts/install test), chromium and chromedriver (Debian:
chromium chromium-driver). Run it on a clean working tree, for the table names the commit.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

PICTURES = ROOT / "results" / "pictures"
WIDTH = 104
"""Characters of the table's lines: enough for the names of tasks and metrics."""

TASK = "quickstart_emoji_category"
"""The task whose mistakes are shown; where a run has none of it, its first."""


def find_chromium() -> tuple[str, str] | None:
    """Where chromium and its driver are; None where one of them is missing."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (binary, driver) if binary and driver else None


@contextmanager
def start_browser() -> Iterator[Any]:
    """A headless Chromium that is cut off from every network, logging what pages complain of.

    Raises:
        ModuleNotFoundError: selenium is not installed.
        RuntimeError: chromium or chromedriver is not.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    executable = find_chromium()
    if executable is None:
        raise RuntimeError("chromium and chromedriver are needed (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = executable[0]
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(executable[1]))
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield browser
    finally:
        browser.quit()


def show(browser: Any, path: Path, width: int = 1280, dark: bool = False, height: int = 900) -> None:
    """Opens a page from its file and waits until it is drawn."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(path.as_uri())
    wait(browser, "return document.documentElement.dataset.ready")


def wait(browser: Any, script: str, seconds: float = 30) -> Any:
    """What a script answers, once that is something true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = browser.execute_script(script)
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"never came true: {script}; console: {browser.get_log('browser')}")


def table(run: Path) -> str:
    """What `clipeval run` prints at its end, as SVG with no font to be fetched."""
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console

    from clipeval.results.tables import print_table

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    print_table([run], console)
    code = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    code = code.replace("Fira Code, monospace", "Fira Code, DejaVu Sans Mono, Menlo, Consolas, monospace")
    return console.export_svg(title="clipeval run", code_format=code, unique_id="clipeval")


def page(run: Path, folder: Path) -> None:
    """`page.png`, from the top to the first chart, and `mistakes.png`, one task opened."""
    from clipeval.replay.pictures import pictures
    from clipeval.results.tables import write_report

    with tempfile.TemporaryDirectory() as scratch, start_browser() as browser:
        path = write_report([run], Path(scratch) / "report.html", "html", pictures=pictures)[0]
        show(browser, path, 1040, height=1200)
        bottom = "return document.querySelector('#groups .chart').getBoundingClientRect().bottom + window.scrollY"
        _capture(browser, folder / "page.png", 0, browser.execute_script(bottom))
        browser.execute_script(
            "const all = [...document.querySelectorAll('#mistakes details')];"
            "const wanted = all.find(d => d.id === arguments[0]) || all[0]; wanted.open = true; wanted.id = 'picture';"
            "document.querySelectorAll('img').forEach(i => i.loading = 'eager')",
            f"task-{TASK}",
        )
        wait(browser, "return [...document.querySelectorAll('#picture img')].every(i => i.complete)")
        top = "return document.getElementById('picture').getBoundingClientRect().top + window.scrollY"
        bottom = "return document.querySelector('#picture .examples').getBoundingClientRect().bottom + window.scrollY"
        _capture(browser, folder / "mistakes.png", browser.execute_script(top), browser.execute_script(bottom) + 20)


def _capture(browser: Any, path: Path, top: float, bottom: float) -> None:
    """A strip of the page, in 256 colours: half of the bytes, and no difference to be seen."""
    from PIL import Image

    width = browser.execute_script("return document.documentElement.clientWidth")
    clip = {"x": 0, "y": top, "width": width, "height": bottom - top, "scale": 1}
    words = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    content = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", words)["data"])
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draws the run that is named, or the quickstart's."""
    from clipeval.cli.main import main as clipeval

    parser = argparse.ArgumentParser(description="Draws the README's pictures into results/pictures/.")
    parser.add_argument("run", nargs="?", type=Path, help="a run folder; default: the quickstart is run")
    run = parser.parse_args().run
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        if run is None:
            run = Path(scratch) / "quickstart"
            if clipeval(["run", f"out={run}", f"cache.root={Path(scratch) / 'cache'}"]):
                sys.exit("the quickstart did not run; see above")
        (PICTURES / "table.svg").write_text(table(run), encoding="utf-8")
        page(run, PICTURES)
    for path in sorted(PICTURES.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
