"""The user interface in a real browser, which trusts the site's authority and nothing else that is new."""

from __future__ import annotations

import base64
import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Error, expect

from testing.browser import answering, launched, window
from testing.deployment import Site

FOR_GOOD = "public, max-age=31536000, immutable"
POINTS = 100
# The page asks at each start whether there is an assistant, which is closed, and takes any refusal for a no.
REFUSED = {"/ajax-api/3.0/mlflow/assistant/config", "/ajax-api/3.0/mlflow/assistant/providers"}
# Name, bytes that crossed the network, and bytes it has packed and unpacked, of every file that the page has loaded.
READ_LOADED = """
performance.getEntriesByType("resource").map(
  entry => [entry.name, entry.transferSize, entry.encodedBodySize, entry.decodedBodySize])
"""


@pytest.fixture(scope="module")
def browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield a browser that was never used before."""
    with launched(site.ca_file, tmp_path_factory.mktemp("home")) as browser:
        yield browser


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
