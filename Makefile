# Everything runs in .venv, which plain pip makes from pyproject.toml and constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo check lint test test-slow test-others build clean
.DELETE_ON_ERROR:

# The whole job on the model and images that edgekit ships.
demo: $(READY)
	$(BIN)/edgekit demo

# What CI runs.
check: lint test

lint: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Side by side, each on a core of its own; what a half has said comes when it ends.
test: $(READY)
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-slow test-others

# Without coverage, which takes a third more time.
test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -p no:cacheprovider

test-others: $(READY)
	$(BIN)/python -m pytest -m "not slow" --cov --cov-fail-under=90

# The source distribution of edgekit-deploy, and a wheel made from it, in dist/.
build: $(READY)
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache

# Made again, or brought up to date, when either file has changed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgekit needs Python 3.11 or newer, this is %s: run make with PYTHON=python3.11" % sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@
