# `make demo` and `make test` need Python 3.11 or later and nothing else; both may be run again.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt

.PHONY: help demo test slow lint types format dist bench docs clean

help:
	@echo "make demo    train a small net on real digits, metered, into MLflow; draw its trend"
	@echo "make test    the default test suite"
	@echo "make slow    the tests that take long"
	@echo "make lint types format"
	@echo "make dist    sdist and wheel, checked, in dist/"
	@echo "make docs    the documentation, into site/index.html"
	@echo "make bench   all benchmarks in turn, into benchmarks/results; says what each took"

demo: .venv/demo.stamp
	$(BIN)/python examples/lightning_digits.py
	$(BIN)/computemeter trend sqlite:///mlflow.db --appendix --no-cache -o trend.html

# Keras has one backend to a process. Two processes at once, the longest first; what each prints
# comes when it ends.
BACKENDS := jax tensorflow torch
IN_PAIRS = $(MAKE) --no-print-directory --jobs 2 --output-sync=target

test: .venv/dev.stamp
	$(IN_PAIRS) test-all-but-keras $(BACKENDS:%=test-keras-%)

test-all-but-keras:
	$(BIN)/pytest -m "not slow"

test-keras-%:
	KERAS_BACKEND=$* $(BIN)/pytest -m "not slow" tests/backends

slow: .venv/dev.stamp
	$(IN_PAIRS) slow-all-but-keras $(BACKENDS:%=slow-keras-%)

slow-all-but-keras:
	$(BIN)/pytest -m slow

slow-keras-%:
	KERAS_BACKEND=$* $(BIN)/pytest -m slow tests/backends

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp
	$(BIN)/mypy

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Afresh: twine takes whatever it finds there.
dist: .venv/dev.stamp
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# One after the other: two at once would measure each other. `make bench BENCHES=eta` runs one.
BENCHES := overhead keras_overhead comparison outage eta trend forecast counters keras_profilers \
	gpu_check

bench: .venv/dev.stamp
	@echo "One after the other, 20 minutes for forecast alone; the machine should be otherwise idle."
	@set -e; for each in $(BENCHES); do \
		began=$$(date +%s); \
		$(BIN)/python benchmarks/$$each.py; \
		echo "$$each took $$(($$(date +%s) - began)) s"; \
	done

# Material's notice is known: it is maintained until May 2027, and its makers' successor is Zensical.
docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html can be opened as it is"

clean:
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "computemeter needs Python 3.11 or later; try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

# torch by itself and first: pip would otherwise look at every build that other packages allow.
.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) torch
	$(PIP) --editable '.[lightning,mlflow,trend]' scikit-learn
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	@touch $@

.venv/docs.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[docs]'
	@touch $@
