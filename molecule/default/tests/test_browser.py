"""The user interface in a real browser, which trusts the site's authority and nothing else that is new."""

from __future__ import annotations

import base64
import math
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, Response, expect, sync_playwright

from testing.deployment import Site

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
TIMEOUT_MILLISECONDS = 60_000
FOR_GOOD = "public, max-age=31536000, immutable"
POINTS = 100
# The page asks at each start whether there is an assistant, which is closed, and takes any refusal for a no.
REFUSED = {"/ajax-api/3.0/mlflow/assistant/config", "/ajax-api/3.0/mlflow/assistant/providers"}
# Name, bytes that crossed the network, and bytes it has packed and unpacked, of every file that the page has loaded.
READ_LOADED = """
performance.getEntriesByType("resource").map(
  entry => [entry.name, entry.transferSize, entry.encodedBodySize, entry.decodedBodySize])
"""

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


@pytest.fixture(scope="module")
def browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield a browser that was never used before and trusts the site's authority."""
    home = tmp_path_factory.mktemp("home")
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    subprocess.run([*certutil, "-A", "-n", "site", "-t", "C,,", "-i", str(site.ca_file)], check=True)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, env={**os.environ, "HOME": str(home)}
        )
        yield launched
        launched.close()


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


def answering(site: Site, user: tuple[str, str]) -> dict[str, str]:
    """Return what a user enters when the site, and no other, asks for a login."""
    return {"username": user[0], "password": user[1], "origin": site.url}


@dataclass(frozen=True)
class Run:
    """A run that was logged to be looked at.

    Args:
        experiment: Name of its experiment.
        experiment_id: Id of that.
        run_id: Its own id.
        losses: Values of its metric `loss`, by step.
    """

    experiment: str
    experiment_id: str
    run_id: str
    losses: list[float]


@pytest.fixture
def run(site: Site, admin: requests.Session) -> Iterator[Run]:
    """Yield a run named `trained`, in an experiment of its own."""

    def post(path: str, **body: Any) -> Any:
        answer = admin.post(f"{site.url}/api/2.0/mlflow/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    now = int(time.time() * 1000)
    experiment = f"browser-{uuid.uuid4().hex}"
    losses = [math.exp(-step / 25) for step in range(POINTS)]
    experiment_id = post("experiments/create", name=experiment)["experiment_id"]
    run_id = post("runs/create", experiment_id=experiment_id, run_name="trained", start_time=now)["run"]["info"][
        "run_id"
    ]
    metrics = [{"key": "loss", "value": loss, "timestamp": now, "step": step} for step, loss in enumerate(losses)]
    post("runs/log-batch", run_id=run_id, metrics=metrics)
    yield Run(experiment, experiment_id, run_id, losses)
    post("experiments/delete", experiment_id=experiment_id)


def test_nothing_is_shown_without_a_login(site: Site, browser: Browser) -> None:
    with window(browser) as (page, recorder):
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            page.goto(site.url)
        assert recorder.refused == {f"{site.url}/"}
    with window(browser, http_credentials=answering(site, (f"nobody-{uuid.uuid4().hex}", "wrong"))) as (page, recorder):
        answer = page.goto(site.url)
        assert answer is not None
        assert answer.status == requests.codes.unauthorized
        assert recorder.requested == [f"{site.url}/"]


def test_a_runs_chart_is_found_and_shown(site: Site, browser: Browser, run: Run) -> None:
    screenshots = site.state / "screenshots"
    with window(browser, http_credentials=answering(site, site.admin)) as (page, recorder):
        page.goto(f"{site.url}/#/experiments")
        listed = page.get_by_role("link", name=run.experiment)
        expect(listed).to_be_visible()
        page.screenshot(path=screenshots / "experiments.png")
        listed.click()
        page.wait_for_url(f"**/#/experiments/{run.experiment_id}/**")

        page.goto(f"{site.url}/#/experiments/{run.experiment_id}/runs/{run.run_id}")
        expect(page.get_by_role("heading", name="trained")).to_be_visible()
        page.get_by_role("tab", name="Model metrics").click()
        chart = page.locator(".js-plotly-plot")
        expect(chart.locator(".js-line").first).to_be_visible()
        page.screenshot(path=screenshots / "run.png")
        assert chart.evaluate("chart => Array.from(chart.data[0].y)") == pytest.approx(run.losses)

    assert {url.removeprefix(site.url) for url in recorder.refused} == REFUSED
    assert recorder.complaints == []
    # All from the site itself: nothing over plain http, nothing that a closed network would miss.
    assert [url for url in recorder.requested if not url.startswith((f"{site.url}/", "data:", "blob:"))] == []


def test_static_files_come_compressed_and_once(site: Site, browser: Browser, anonymous: requests.Session) -> None:
    # Not by answering a question: to listen for it, Playwright turns the browser's cache off.
    basic = base64.b64encode(":".join(site.admin).encode()).decode()
    with window(browser, extra_http_headers={"Authorization": f"Basic {basic}"}) as (page, _):

        def load() -> dict[str, list[int]]:
            page.goto("about:blank")
            page.goto(site.url)
            expect(page.get_by_role("link", name="Experiments", exact=True)).to_be_visible()
            return {name: sizes for name, *sizes in page.evaluate(READ_LOADED) if name.endswith((".js", ".css"))}

        first = load()
        again = load()
    assert {"js", "css"} <= {name.rsplit(".", 1)[1] for name in first}
    assert {name: sizes for name, sizes in first.items() if not 0 < sizes[1] < sizes[2]} == {}
    assert {anonymous.get(name, timeout=60).headers["Cache-Control"] for name in first} == {FOR_GOOD}
    assert set(again) >= {name for name in first if "/main." in name}
    assert {name: sizes[0] for name, sizes in again.items() if name in first and sizes[0] > 0} == {}
