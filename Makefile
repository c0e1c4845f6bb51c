# Every target does its own set-up: Python 3.11 or later with pip is all that has to be there.
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
EXAMPLE ?= examples/plot_01_households.py
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints-dev.txt --editable

# Small networks gain nothing from more threads, and two processes that use all cores lose.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint ruff mypy bench clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1  \2/p' Makefile | expand -t 14

venv: $(VENV)/.dev  ## set up the development environment

demo: $(VENV)/.demo  ## one network, three questions about 9,275 households (a minute; EXAMPLE=... runs another)
	MPLBACKEND=Agg $(BIN)/python $(EXAMPLE)

test: $(VENV)/.dev  ## run all tests (PYTEST_ARGS="-m 'not slow'" for the fast ones)
	$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

lint: ruff mypy  ## check style and types

ruff: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mypy: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.dev  ## list the benchmarks and how to run each
	@for file in benchmarks/bench_*.py; do echo "$(BIN)/python $$file"; done

clean:  ## remove what was built
	rm -rf $(VENV) outputs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.demo: pyproject.toml constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[dev]'
	touch $@
