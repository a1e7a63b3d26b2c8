# `make demo` and `make test` work on a fresh machine; each makes what it needs and reuses what is there.
BIN := .venv/bin
UNIT_TESTS := $(BIN)/python -m pytest -q -m "not alone and not cluster and not engine and not e2e" -n auto --dist worksteal

# Ranks, actors and workers of the tests start often: what they import stays compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env demo test check static format lint types layers site unit fix docs manifests locks clean
.PHONY: cluster-test cluster-tools

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 15

env: ## Make .venv from the lock for this machine (CPU, or GPU where nvidia-smi works)
	@bash env/install.sh

demo: env ## Train the packaged sample: VeRL on SGLang, with live switches
	@echo "demo: taper run"
	@$(BIN)/taper run

test: static cluster-tools ## All checks and all tests: unit, cluster, real engine, end to end
	@echo "test: unit tests"
	@$(UNIT_TESTS)
	@echo "test: cluster, engine and end-to-end tests, one at a time"
	@$(BIN)/python -m pytest -q -m "alone or cluster or engine or e2e"

check: static unit ## The checks and the unit tests: under 3 minutes

static: format lint types layers site

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

# Without network access. A dead link, a missing anchor or a page outside of the navigation fails it.
site: env ## Build the documentation as a site: build/site/index.html
	@echo "check: site"
	@mkdir -p build
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build > build/site.log 2>&1 || { cat build/site.log; exit 1; }

unit: env
	@echo "check: unit tests"
	@$(UNIT_TESTS) --hypothesis-profile=quick

cluster-test: env cluster-tools ## The tests on a Kubernetes control plane that runs here
	@$(BIN)/python -m pytest -q -m cluster

cluster-tools: env # Their programs, built once into the user's cache; nothing where there is no Go
	@$(BIN)/python tests/cluster/control_plane/cluster_tools.py

fix: env ## Format, and repair what the linter can
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

docs: env ## Generate what follows from the code: pages of docs/, CRDs, copies in the chart
	@$(BIN)/python docs/generate.py

manifests: env ## Render the chart for those without helm into manifests/install; needs helm
	@$(BIN)/python charts/render.py

locks: ## Resolve env/cpu.lock and env/gpu.lock from pyproject.toml (LOCK_FLAGS=--upgrade for newer versions)
	@bash env/lock.sh $(LOCK_FLAGS)

clean: ## Remove the environment, the caches and the runs
	rm -rf .venv .venv.lock .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache runs build dist
