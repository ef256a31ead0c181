# The words of this repository. `make` alone lists them.
# `setup` is safe to repeat: what is present is kept, and the second run takes a moment.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
LOCK := requirements/dev.lock
DEBIAN := requirements/debian.txt
# Set KIBO_NO_APT=1 to keep the machine's own packages as they are.
PYTEST_ARGS ?=
# Many images of containers set it. Without compiled modules each `kibo` and each test process compiles all it imports.
unexport PYTHONDONTWRITEBYTECODE
# One worker a processor; WORKERS=0 runs all in one process.
WORKERS ?= auto

.PHONY: help setup system demo test lint format types arch bench soak docs reference check lock clean

help: ## list these words
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: system $(STAMP) ## bring the machine's packages (as root) and .venv, from pinned hashes

# Only what is missing is installed, and it is named first.
system:
	@bash requirements/system.sh $(DEBIAN)

$(STAMP): $(LOCK) pyproject.toml requirements/venv.sh
	@bash requirements/venv.sh $(VENV) $(LOCK)
	@touch $@

lock: $(STAMP) ## pin anew what pyproject.toml asks for
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
	  --no-emit-index-url --no-header --no-emit-find-links $(LOCK_ARGS) pyproject.toml -o $(LOCK)

demo: setup ## run the main job: three boxes buy one coffee
	@$(PY) -m examples.coffee.demo

test: setup ## every test; PYTEST_ARGS=... narrows it
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(STAMP) ## ruff: style and formatting
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

format: $(STAMP) ## let ruff mend what it can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

types: $(STAMP) ## mypy, strict
	@$(VENV)/bin/mypy

arch: $(STAMP) ## import-linter: imports point down
	@$(VENV)/bin/lint-imports

check: lint types arch docs ## everything that is quick and needs no box
	@$(PY) -m pytest -q tests/unit tests/property

bench: setup ## measure each promise of SPECIFICATION.md on this machine
	@$(PY) -m benchmarks

soak: setup ## kill it at many moments, then spawn, act and destroy for minutes; counts what is left
	@$(PY) -m pytest -m soak
	@$(PY) -m benchmarks.soak

docs: $(STAMP) ## check that the links and the examples of docs/ hold, and that its reference is current
	@$(PY) docs/check.py

reference: $(STAMP) ## write docs/reference/ from the docstrings
	@$(PY) docs/reference.py

clean: ## remove what these words made (not the boxes' state directory)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
