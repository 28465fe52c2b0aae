# Everything to set up, run and check edgemim. `make help` lists the targets.
#
#   PYTHON       interpreter that makes the virtual environment (3.10 to 3.13)
#   VENV         where it is made
#   PYTEST_ARGS  further arguments of pytest

PYTHON ?= python3
VENV ?= .venv
# Each process begins with its own half, so that what tests of a folder share is made once.
PYTEST_ARGS ?= -n 2 --dist worksteal
RUN_EXTRAS := train,export,openvino,onnxruntime,report
# Debian packages that tests need; a test that needs one carries the marker `system`.
SYSTEM_PACKAGES ?= openssh-client openssh-server chromium

BIN := $(VENV)/bin
# The pins are those of CI's Python; another one resolves its own releases.
PINS = $(shell $(BIN)/python -c 'import sys; print("-c constraints.txt" * (sys.version_info[:2] == (3, 11)))')
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all test-aarch64 lint types system wheel constraints clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

quickstart: $(RUN_STAMP)  ## install what the main job needs, and run it on the built-in digits
	$(BIN)/edgemim quickstart --overwrite

test: lint types  ## install, then lint, types and the default tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: lint types  ## the same with the slow tests and those that need a GPU, a vendor package or a board
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m ""

test-aarch64: $(DEV_STAMP)  ## run the runtime's tests and a check on emulated 64-bit Arm (needs root)
	PYTHON=$(BIN)/python scripts/aarch64.sh

# Two test processes on two cores: more threads in each would only fight.
test test-all: export OMP_NUM_THREADS ?= 1

lint: $(DEV_STAMP)  ## style and layout of the source
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP)  ## strict types, as Python 3.10 sees them
	$(BIN)/mypy

system:  ## install the Debian packages that tests need
ifeq ($(strip $(SYSTEM_PACKAGES)),)
	@echo "no Debian package is needed"
else
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get update -q
	$(if $(filter 0,$(shell id -u)),,sudo) env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends $(SYSTEM_PACKAGES)
endif

wheel: $(DEV_STAMP)  ## build dist/*.whl
	$(BIN)/python -m build --wheel

constraints: $(DEV_STAMP)  ## resolve every extra anew (Python 3.11) and write constraints.txt
	$(BIN)/pip install --quiet --dry-run --ignore-installed --report - '.[all,dev]' \
		| $(BIN)/python scripts/constraints.py > constraints.new
	mv constraints.new constraints.txt

clean:  ## remove what was built and cached, but not the virtual environment
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[$(RUN_EXTRAS)]' $(PINS)
	touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[$(RUN_EXTRAS),rtx,dev]' $(PINS)
	touch $(RUN_STAMP) $@
