"""Looks at a run's page in headless Chromium, wide and on a phone: no error on the console, nothing loaded from elsewhere,
every picture there, nothing wider than the window, and a slider that shows another picture.

    python check_page.py report.html [--pictures FOLDER]

Needs Playwright's Python package and a Chromium; without one of them it says so and exits with 0, or with 1 where
SRGAN_REQUIRE_BROWSER is set.
"""

import argparse
import os
import pathlib
import shutil
import sys

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
MISSING = """[...document.images].filter(image => !image.closest("[hidden]")
    && !(image.complete && image.naturalWidth > 0 && image.clientWidth > 0)).length"""


def skip(why):
    print(f"the run's page was NOT looked at: {why}")
    sys.exit(1 if os.environ.get("SRGAN_REQUIRE_BROWSER") else 0)


def look(browser, page_file, name, size, folder):
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    faults = []
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"script: {error}"))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else faults.append(request.url))
    page.goto(page_file.resolve().as_uri())
    for slider in page.query_selector_all("input[type=range]"):
        slider.fill("0")
        shown = slider.evaluate("range => [...range.parentNode.querySelectorAll('figure')].map(f => f.hidden).indexOf(false)")
        if shown != 0:
            faults.append(f"the slider shows picture {shown}, not the first")
    pictures, curves = page.evaluate("[document.images.length, document.querySelectorAll('svg').length]")
    if pictures == 0 or curves == 0:
        faults.append(f"{pictures} pictures and {curves} drawings")
    if missing := page.evaluate(MISSING):
        faults.append(f"{missing} pictures are not shown")
    if (wide := page.evaluate(WIDE)) > 0:
        faults.append(f"the page is {wide} pixels wider than the window")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name}.png", full_page=True)
    page.close()
    print(f"{name}: {pictures} pictures, {curves} drawings")
    return [f"{name}: {fault}" for fault in faults]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--pictures", type=pathlib.Path, help="folder for screenshots")
    args = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip("Playwright's Python package is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        skip("there is no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        faults = [f for name, size in SIZES.items() for f in look(browser, args.page, name, size, args.pictures)]
        browser.close()
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
