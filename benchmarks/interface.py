"""The first load of the user interface in a real browser, with an empty cache and with a warm one."""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

from benchmarks.systems import System
from testing.browser import launched

# An experiment of reset.sql, on the page that shows it.
PAGE, SHOWN = "/#/experiments", "listed-100"
# What the page loads late is counted too: until nothing has ended for so long. A page need never be idle, since it may
# ask for what the machine does not let through.
QUIET_SECONDS, QUIET_SECONDS_MAX = 1.0, 15.0
# On one machine bytes cost next to nothing; a user is at the end of a line. Milliseconds for a request, bytes a second.
LINE = {"offline": False, "latency": 20, "downloadThroughput": 20e6 / 8, "uploadThroughput": 20e6 / 8}


def load(context: BrowserContext, system: System, line: dict[str, Any] | None) -> dict[str, float]:
    """Open the list of experiments in a new tab.

    Args:
        context: A window of the browser, with the cache that it has.
        system: What is opened.
        line: What the browser is slowed down to, if anything, as its protocol has it.

    Returns:
        Seconds until an experiment is seen, bytes over the network, and requests.
    """
    page = context.new_page()
    ended: list[float] = []
    protocol = context.new_cdp_session(page)
    protocol.on("Network.loadingFinished", lambda event: ended.append(event["encodedDataLength"]))
    protocol.send("Network.enable")
    if line:
        protocol.send("Network.emulateNetworkConditions", line)
    began = time.monotonic()
    page.goto(system.url + PAGE)
    expect(page.get_by_text(SHOWN, exact=True).first).to_be_visible()
    seconds = time.monotonic() - began
    wait_until_quiet(page, ended)
    figures = {"seconds": seconds, "bytes": sum(ended), "requests": float(len(ended))}
    page.close()
    return figures


def wait_until_quiet(page: Page, ended: Sequence[float]) -> None:
    """Wait until no request has ended for QUIET_SECONDS, for QUIET_SECONDS_MAX at most."""
    until = time.monotonic() + QUIET_SECONDS_MAX
    before = -1
    while before != len(ended) and time.monotonic() < until:
        before = len(ended)
        page.wait_for_timeout(QUIET_SECONDS * 1000)


def measure(system: System) -> dict[str, dict[str, float]]:
    """Return the figures of a first load and of a second one, on this machine and as if over a line."""
    options: dict[str, Any] = {"viewport": {"width": 1400, "height": 1000}}
    if system.login:
        # Not as credentials, for whose sake Playwright steps between the page and the network, and past the cache.
        login = base64.b64encode(":".join(system.login).encode()).decode()
        options["extra_http_headers"] = {"Authorization": f"Basic {login}"}
    found = {}
    for place, line in {"": None, ", 20 Mbit/s": LINE}.items():
        with tempfile.TemporaryDirectory() as home, launched(system.ca_file, Path(home)) as browser:
            context = browser.new_context(**options)
            context.set_default_timeout(120_000)
            for cache in ("empty cache", "warm cache"):
                found[cache + place] = load(context, system, line)
    return found
