"""Takes the pictures of the docs from a finished run of the demo, in a real browser.

    cvft run recipes/tiny_cpu.yaml
    python benchmarks/pictures.py runs/tiny_cpu

writes docs/report.png (scores, and rows with the frames that the model saw), docs/preview.png (what `cvft preview` shows) and
docs/page.png (the page of `cvft serve`, with a question to base and adapter). Needs Chromium with chromedriver.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser import Browser, browsing  # noqa: E402
from tests.server import serving  # noqa: E402

DOCS = ROOT / "docs"
WIDTH = 1200
NUM_ROWS = 2

SHOW_SCORES_AND_ROWS = """
    for (const each of document.querySelectorAll("main > *, main > section > *")) each.hidden = true;
    const show = (each) => { for (; each && each.tagName !== "MAIN"; each = each.parentElement) each.hidden = false; };
    show(document.querySelector("h1")); show(document.querySelector(".headline"));
    const heading = [...document.querySelectorAll("h3")].find((each) => each.textContent === "Exact match by category");
    show(heading); show(heading.nextElementSibling);
    show(document.getElementById("browser"));
    [...document.querySelectorAll("#rows > *")].forEach((row, number) => { row.hidden = number >= arguments[0]; });
    document.getElementById("more").hidden = true;
    document.documentElement.style.overflow = "hidden";
    scrollTo(0, 0);"""
ONLY_FIRST_ROWS = """
    [...document.querySelectorAll("#rows > *")].forEach((row, number) => { row.hidden = number >= arguments[0]; });
    document.documentElement.style.overflow = "hidden";
    scrollTo(0, 0);"""
WITHOUT_ROOT = """
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(arguments[0], "");"""
QUESTION = "When is the white square visible?"


def main() -> int:
    """Takes the pictures."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    run = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder)
        report_picture(run, aside)
        preview_picture(run, aside)
        page_picture(run, aside)
    return 0


def report_picture(run: Path, aside: Path) -> None:
    """The scores, and rows that were won."""
    with browsing(aside / "report", width=WIDTH, height=900) as browser:
        browser.open(f"{(run / 'report.html').as_uri()}#show=won&sort=change")
        browser.wait("document.querySelectorAll('#rows > *').length")
        choose(browser, "filter-show", "won")
        browser.run(SHOW_SCORES_AND_ROWS, NUM_ROWS)
        take(browser, DOCS / "report.png")


def preview_picture(run: Path, aside: Path) -> None:
    """The first rows as the model takes them."""
    page = aside / "preview.html"
    command = [sys.executable, "-m", "cvft", "preview", str(run), "--output", str(page), "--rows", "6"]
    subprocess.run(command, check=True, cwd=ROOT)
    with browsing(aside / "preview", width=WIDTH, height=900) as browser:
        browser.open(page.as_uri())
        browser.wait("document.querySelectorAll('#rows > *').length")
        browser.run(ONLY_FIRST_ROWS, NUM_ROWS)
        browser.run(WITHOUT_ROOT, f"{ROOT}/")
        take(browser, DOCS / "preview.png")


def page_picture(run: Path, aside: Path) -> None:
    """A clip with the answers of base and adapter."""
    clip = ROOT / "datasets" / "tiny_shapes" / "clips" / "val_000.mp4"
    with (
        serving("--model", "tiny", "--adapter", f"tuned={run / 'adapter'}") as server,
        browsing(aside / "page", width=WIDTH, height=900) as browser,
    ):
        browser.open(f"{server.url}/")
        browser.wait("document.getElementById('models').textContent")
        browser.type("#file", str(clip))
        browser.wait("document.querySelectorAll('#frames button').length")
        browser.wait("document.activeElement.id === 'query'")
        browser.press(*QUESTION, "enter")
        browser.wait("document.querySelectorAll('.answer .jump').length")
        browser.wait("document.getElementById('stop').hidden")
        browser.run("document.documentElement.style.overflow = 'hidden'")
        take(browser, DOCS / "page.png")


def choose(browser: Browser, name: str, value: str) -> None:
    script = "const each = document.getElementById(arguments[0]); each.value = arguments[1];"
    browser.run(f"{script} each.dispatchEvent(new Event('change', {{bubbles: true}}));", name, value)
    browser.run(f"{script} each.dispatchEvent(new Event('input', {{bubbles: true}}));", name, value)


def take(browser: Browser, path: Path) -> None:
    """Writes what the page shows, all of its height, in few colours: pictures are loaded by everybody who reads the docs."""
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(browser.picture()))
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
