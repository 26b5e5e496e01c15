"""A browser for the tests: an installed Chromium, Chrome or Edge, else Playwright's own.

As a program it makes sure that there is one, and says which: python tests/browser/browsers.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

# What a browser does on its own behalf (updates, first-run pages) is no part of a test.
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update", "--disable-sync"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
HINT = (
    "The browser tests need a browser, and none could be started.\n"
    "Install Chromium, Chrome or Edge (on Debian: apt-get install chromium), or let Playwright fetch its own:\n"
    "python -m playwright install --with-deps chromium\n"
    "Or leave these tests out: nox -s tests -- --no-browser"
)


class NoBrowser(Exception):
    """None could be started; the message says what to install."""


def candidates() -> Iterator[tuple[str, dict]]:
    """Name and launch options of each browser that may be here, in the order of preference."""
    for path in filter(None, map(shutil.which, NAMES)):
        yield path, {"executable_path": path}
    for channel in ("chrome", "msedge"):  # Playwright knows their usual places on Windows and macOS
        yield channel, {"channel": channel}
    yield "Playwright's own", {}


def launch(playwright: Playwright) -> tuple[str, Browser]:
    """The first browser that starts, and which it is.  Raises NoBrowser."""
    refusals = []
    for name, options in candidates():
        try:
            return name, playwright.chromium.launch(args=FLAGS, **options)
        except Error as error:  # not here, or it cannot run: a snap sees no /tmp, a library is missing
            refusals.append(f"{name}: {error.message.strip().splitlines()[0]}")
    raise NoBrowser("\n".join([HINT, "What was tried:", *refusals]))


def found() -> str:
    """Which browser it is, and its version.  Raises NoBrowser."""
    with sync_playwright() as playwright:
        name, browser = launch(playwright)
        with browser:
            return f"{name}, version {browser.version}"


def main() -> None:
    try:
        print(found())
    except NoBrowser:
        print("No Chromium, Chrome or Edge is installed; Playwright fetches its own.", flush=True)
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])  # if it fails, we say so below
        try:
            print(found())
        except NoBrowser as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
