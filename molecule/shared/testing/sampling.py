"""Samples of long tests: `make test` runs a sample of each kind, `make test-exhaustive` (TEST_EXHAUSTIVE=1) runs all.

A test that only the exhaustive run needs is marked `@pytest.mark.exhaustive("where make test has its sample")`, so that
each of them names the smaller test of the same kind. It is a plugin of pytest, which deselects the marked tests.
"""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

Value = TypeVar("Value")
IS_EXHAUSTIVE = os.environ.get("TEST_EXHAUSTIVE", "") == "1"


def pick(sample: Value, exhaustive: Value) -> Value:
    """Return what this run uses: the sample, or all of it in an exhaustive run."""
    return exhaustive if IS_EXHAUSTIVE else sample


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "exhaustive(sample): runs in `make test-exhaustive`; make test has the sample.")
    config.addinivalue_line("markers", "system: needs root, Debian's packages or a service that the test starts.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that only an exhaustive run needs."""
    unnamed = [item.nodeid for item in items for mark in item.iter_markers("exhaustive") if not mark.args]
    if unnamed:
        raise pytest.UsageError(f"exhaustive() must name the sample that make test runs: {unnamed[0]}")
    if not IS_EXHAUSTIVE:
        dropped = [item for item in items if item.get_closest_marker("exhaustive")]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = [item for item in items if item not in dropped]
