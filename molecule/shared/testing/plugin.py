"""What pytest loads for the tests of a scenario."""

pytest_plugins = ["testing.journal", "testing.sampling"]
