# `make demo` and `make test` work on a fresh machine; each makes what it needs and reuses what is there.
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help env demo test check static format lint types layers unit fix docs locks clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

env: ## Make .venv from the lock for this machine (CPU, or GPU where nvidia-smi works)
	@bash env/install.sh

demo: env ## Train the packaged sample: VeRL on SGLang, with live switches
	@echo "demo: taper run"
	@$(BIN)/taper run

test: static ## All checks and all tests: unit, real engine, end to end
	@echo "test: unit, engine and end-to-end tests"
	@$(BIN)/python -m pytest -q

check: static unit ## The checks and the unit tests: under 3 minutes

static: format lint types layers

format: env
	@echo "check: format"
	@$(BIN)/ruff format --quiet --check || { echo "run: make fix"; exit 1; }

lint: env
	@echo "check: lint"
	@$(BIN)/ruff check --quiet

types: env
	@echo "check: types"
	@$(BIN)/mypy --no-error-summary

layers: env
	@echo "check: layers"
	@$(BIN)/lint-imports --no-logo > .layers.log 2>&1 || { cat .layers.log; rm -f .layers.log; exit 1; }
	@rm -f .layers.log

unit: env
	@echo "check: unit tests"
	@$(BIN)/python -m pytest -q -m "not engine and not e2e" --hypothesis-profile=quick

fix: env ## Format, and repair what the linter can
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

docs: env ## Make what follows from the code anew: pages of docs/, CRDs, copies in the chart
	@$(BIN)/python docs/generate.py

locks: ## Make env/cpu.lock and env/gpu.lock anew from pyproject.toml (LOCK_FLAGS=--upgrade for newer ones)
	@bash env/lock.sh $(LOCK_FLAGS)

clean: ## Remove the environment, the caches and the runs
	rm -rf .venv .venv.lock .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache runs build dist
