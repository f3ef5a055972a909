# The commands of this project. Each target is a line or two; the work is in scripts/.
.PHONY: help demo demo-down check test test-changed test-exhaustive lint test-unit bench docs lock clean
.DEFAULT_GOAL := help
BASE ?= HEAD~1

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z%<>-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Deploy MLflow to a container host on this machine and log a run
	@scripts/demo up

demo-down: ## Remove the container host and all that the demo made
	@scripts/demo down

check: ## Run the linters and the unit tests that need neither root nor Debian
	@scripts/check

test: ## Run the gate: lint, unit tests, every Molecule scenario
	@scripts/test

test-changed: ## Run what a change can have broken: BASE=<commit> (default: HEAD~1)
	@scripts/test --changed $(BASE)

test-exhaustive: ## Run all of what `make test` takes samples of
	@TEST_EXHAUSTIVE=1 scripts/test

lint: ## Run the linters
	@scripts/test lint

test-unit: ## Run the unit tests
	@scripts/test unit

test-%: ## Run one Molecule scenario
	@scripts/test $*

bench: ## Measure the site side by side with MLflow started by hand (docs/performance.md)
	@scripts/bench

bench-%: ## Measure one part: operations, size, ui, artifacts, life, import
	@scripts/bench $*

docs: ## Write what is generated from the roles' specs
	@scripts/bootstrap && .venv/bin/python scripts/generate_docs.py

lock: ## Compile the locks anew
	@scripts/bootstrap && scripts/lock

clean: ## Remove caches, the virtual environment and test results
	rm -rf .venv .cache .test .mypy_cache .ruff_cache .pytest_cache
