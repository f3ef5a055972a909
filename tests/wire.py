"""What the SDKs that use requests send, answered within the test's own process."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

Service = Callable[[Request], Response]


@dataclass
class Wire:
    """The way to the services.

    Args:
        services: By host name, what answers.
        refused: Answers that are given in place of a service's, by method and the end of the path.
        calls: Method and URL of what was asked for.
    """

    services: Mapping[str, Service]
    refused: dict[tuple[str, str], Response | Exception] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def send(self, _adapter: Any, request: requests.PreparedRequest, **_options: Any) -> requests.Response:
        """Answer a request, in the place of the method of requests that sends it."""
        url = urlsplit(str(request.url))
        method = str(request.method)
        self.calls.append(f"{method} {request.url}")
        for (refused_method, end), answer in self.refused.items():
            if refused_method == method and url.path.endswith(end):
                if isinstance(answer, Exception):
                    raise answer
                return self._response(request, answer)
        service = self.services.get(str(url.hostname))
        if service is None:
            raise requests.exceptions.ConnectionError(f"no such host: {url.hostname}")
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        client = Client(Request.application(service))
        answered = client.open(
            url.path,
            base_url=f"{url.scheme}://{url.netloc}",
            query_string=url.query,
            method=method,
            headers=list(request.headers.items()),
            data=body,
        )
        return self._response(request, answered)

    def writes(self) -> list[str]:
        """Return the calls that change something."""
        return [call for call in self.calls if not call.startswith(("GET", "HEAD")) and "/token" not in call]

    @staticmethod
    def _response(request: requests.PreparedRequest, answer: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = answer.status_code
        response.headers.update(dict(answer.headers))
        response.raw = io.BytesIO(answer.get_data())
        response.request = request
        response.url = str(request.url)
        return response


def lay(wire: Wire, patch: pytest.MonkeyPatch) -> None:
    """Let all that requests sends go this way until the end of the test."""
    patch.setattr(
        requests.adapters.HTTPAdapter,
        "send",
        lambda adapter, request, **options: wire.send(adapter, request, **options),
    )
