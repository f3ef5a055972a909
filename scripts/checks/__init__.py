"""Runs this project's checks: linters, unit tests, Molecule scenarios and a short run of the benchmark."""
