"""Make the README's picture of the page, wide and light beside narrow and dark: python assets/make_screenshot.py URL

URL is that of a running page; the tests' requirements and Debian's chromium are needed.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from PIL import Image, ImageOps
from playwright.sync_api import Browser, sync_playwright

ASSETS = Path(__file__).parent
sys.path.insert(0, str(ASSETS.parent))  # the package of this source tree

from tests.support.browsing import ARGUMENTS, CHROMIUM, answer, upload  # noqa: E402

STUDY, PICTURE = ASSETS / "examples" / "study-three.zip", ASSETS / "page.webp"
WIDE, NARROW = (1280, 1000), (390, 1000)  # width and height in pixels
GAP, BORDER, QUALITY = 24, 1, 80


def photograph(browser: Browser, url: str, size: tuple[int, int], scheme: str) -> Image.Image:
    """The page with the result of a synthetic study."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.goto(url)
    answer(page, "Large lesion")
    upload(page, STUDY)
    answer(page, STUDY.name)
    page.wait_for_function("document.querySelectorAll('#evidence img').length === 2")  # until then the page is at work
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.close()
    return ImageOps.expand(picture, BORDER, "gray")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    options = parser.parse_args(arguments)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        wide, narrow = photograph(browser, options.url, WIDE, "light"), photograph(browser, options.url, NARROW, "dark")
        browser.close()
    both = Image.new("RGBA", (wide.width + GAP + narrow.width, wide.height), (0, 0, 0, 0))
    both.paste(wide, (0, 0))
    both.paste(narrow, (wide.width + GAP, 0))
    both.save(PICTURE, quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
