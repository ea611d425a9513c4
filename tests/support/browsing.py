"""A visitor's browser: Chromium, and the steps that several tests share."""

import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "assets" / "examples" / "large-lesion.png"
STUDY = EXAMPLE.parent / "study-flair.nii.gz"
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
VERDICT = "section.verdict h2"
CAPTION = "#study-viewer .study-caption"


@contextmanager
def visiting(browser, page_url):
    """Yield a function that opens the page; afterwards check for console errors and requests to other hosts."""
    contexts, errors, hosts = [], [], set()

    def visit(width: int, height: int, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(urlparse(request.url).hostname) if request.url.startswith("http") else None)
        page.goto(page_url)
        page.wait_for_selector("#verdict")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert errors == []
    assert hosts == {urlparse(page_url).hostname}


def upload(page, path: Path) -> None:
    page.set_input_files("input[type=file]", path)


def open_tab(page, name: str) -> None:
    page.click(f"button[role=tab]:has-text('{name}')")


def open_studies(page) -> None:
    open_tab(page, "Study")


def study_verdict(page) -> str:
    page.wait_for_selector("#study-verdict section.verdict h2")
    page.wait_for_selector(CAPTION)
    return page.inner_text("#study-verdict h2")
