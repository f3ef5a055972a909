"""Fixtures that more than one module of tests asks for."""

pytest_plugins = ["tests.client", "tests.database", "tests.stores"]
