"""A real browser, as a user of a site has it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, expect, sync_playwright

from testing.deployment import Login, Site
from testing.limits import limit

CHROMIUM = "/usr/bin/chromium"
# As root, without a screen, and without the browser's own calls home, which would be mistaken for the page's.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MILLISECONDS = limit(60) * 1000

expect.set_options(timeout=TIMEOUT_MILLISECONDS)


@dataclass
class Recorder:
    """Remembers what a window asked for and what it complained of.

    Args:
        requested: URLs asked for.
        refused: URLs that were answered with an error.
        complaints: What the console said, exceptions, and requests without an answer, in words.
    """

    requested: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Listen to a page."""
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("response", self.note_answer)
        page.on("requestfailed", self.note_failure)
        page.on("console", self.note_message)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))

    def note_answer(self, response: Response) -> None:
        """Keep the URL of an answer that is an error."""
        if response.status >= requests.codes.bad_request:
            self.refused.add(response.url)

    def note_failure(self, request: Request) -> None:
        """Keep a request that failed, but for one that the page has itself ended, by going elsewhere."""
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"{request.url}: {request.failure}")

    def note_message(self, message: ConsoleMessage) -> None:
        """Keep an error or a warning, but for the echo of an answer that is among the refused."""
        if message.type in ("error", "warning") and message.location["url"] not in self.refused:
            self.complaints.append(f"{message.type}: {message.text}")


@contextmanager
def launched(ca_file: Path | None, home: Path) -> Iterator[Browser]:
    """Start a browser that trusts a site's authority.

    Args:
        ca_file: The authority's certificate, or None to trust none beside the machine's.
        home: An empty directory, in which the browser keeps what it trusts.

    Yields:
        The browser.
    """
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    if ca_file:
        subprocess.run([*certutil, "-A", "-n", "site", "-t", "C,,", "-i", str(ca_file)], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, env={**os.environ, "HOME": str(home)}
        )
        yield browser
        browser.close()


@contextmanager
def window(browser: Browser, **options: Any) -> Iterator[tuple[Page, Recorder]]:
    """Open a window that shares nothing with others.

    Args:
        browser: The browser.
        options: Options of the window.

    Yields:
        Its page, and what is recorded of it.
    """
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, **options)
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    page, recorder = context.new_page(), Recorder()
    recorder.watch(page)
    yield page, recorder
    context.close()


def answering(site: Site, user: Login) -> dict[str, str]:
    """Return what a user enters when the site, and no other, asks for a login."""
    return {"username": user[0], "password": user[1], "origin": site.url}
