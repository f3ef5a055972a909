"""Fixtures that more than one module of tests asks for."""

pytest_plugins = ["tests.database", "tests.stores"]
