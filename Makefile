# Everything runs in .venv, which plain pip makes from pyproject.toml and constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
# Keeps the bytecode of what is imported, even where the environment forbids it: without it, each process would compile
# torch anew, which takes longer than to import it.
export PYTHONDONTWRITEBYTECODE =
READY := .venv/ready

.PHONY: demo check lint docs current figures test test-1 test-2 test-changed test-changed-1 test-changed-2 test-all test-all-1 test-all-2 coverage coverage-1 coverage-2 build clean
.DELETE_ON_ERROR:

# The whole job on the model and images that edgekit ships.
demo: $(READY)
	$(BIN)/edgekit demo

# What CI runs. Each of the four uses one core, so two run at a time. The halves of the tests come last, because they share
# their work and end together. The tests build the site too, as strictly as `docs`. Types are checked of what users run:
# those of tests and benchmarks take as long again, and `make lint` checks them before a commit.
check: $(READY)
	rm -rf $(SHARED)
	$(BOTH) TYPED="edgekit docs/examples .github/deploy.py" lint current test-all-1 test-all-2

lint: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m benchmarks.house

# The documentation site in build/site. Dead links and pages outside of the navigation fail; with --quiet MkDocs would
# count no warnings.
docs: current
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Pages that differ from the recorded figures fail, and those that don't say that bundles may have changed since.
current: $(READY)
	$(COG) --check --diff --verbosity=0 $(PAGES)

# Writes the figures of the benchmarks' JSON into README and docs.
figures: $(READY)
	$(COG) -r --verbosity=1 $(PAGES)

# Each block calls a function of one of these modules of docs/generate.
COG = $(BIN)/python -m cogapp -I . -p "from docs.generate import action, commands, compatibility, counts, coverage, errors, estimates, figures, headlines, instructions, making, models, peers, processors, report, sdk, settings, trained"
PAGES = README.md action.yml benchmarks/MODELS.md benchmarks/NOTES.md benchmarks/RECIPES.md $(shell find docs -name '*.md')

# Two processes share the tests, each on a core of its own, and say a line for each file that is finished.
SHARED := build/tests
PYTEST := -m pytest --quiet --shared=$(SHARED) -p no:cacheprovider
BOTH = $(MAKE) --no-print-directory --jobs 2

# One thread each: two of torch's threads wait for each other at every operation if one shares its core with the other
# process.
test-1 test-2 test-changed-1 test-changed-2 test-all-1 test-all-2 coverage-1 coverage-2: export OMP_NUM_THREADS = 1

# While you work: without what takes minutes or makes environments of its own.
test: $(READY)
	rm -rf $(SHARED)
	$(BOTH) test-1 test-2

test-1 test-2: $(READY)
	$(BIN)/python $(PYTEST) -m "not slow"

# Those of them that a change since the commit BASE can break: by default, since the branch left its upstream, or since
# the last commit but one where it has none.
test-changed: $(READY)
	rm -rf $(SHARED)
	$(BOTH) test-changed-1 test-changed-2

test-changed-1 test-changed-2: $(READY)
	$(BIN)/python $(PYTEST) -m "not slow" --changed="$(BASE)"

# Everything.
test-all: $(READY)
	rm -rf $(SHARED)
	$(BOTH) test-all-1 test-all-2

test-all-1 test-all-2: $(READY)
	$(BIN)/python $(PYTEST)

# How much of edgekit the tests cover. Tracing makes them slower by a half. It makes anew what runs keep for the next one.
coverage: $(READY)
	rm -rf $(SHARED)* .coverage .coverage.*
	$(BOTH) coverage-1 coverage-2
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --fail-under 95

coverage-1 coverage-2: $(READY)
	$(BIN)/coverage run $(PYTEST)

# The source distribution of edgekit-deploy, and a wheel made from it, in dist/.
build: $(READY)
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache

# Made again, or brought up to date, when either file has changed.
# Compiling each of the 18,000 modules takes longer than compiling those that are imported when they are. The pip that
# Python 3.11 brings needs half as much time again as a new one.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgekit needs Python 3.11 or newer, this is %s: run make with PYTHON=python3.11" % sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]' --constraint constraints.txt
	touch $@
