# make demo   a nested model search, in parallel, with a bar (about two minutes the first time)
# make test   every check: lint, format, types, floors, tests
# make bench  the benchmarks, side by side with the peers
# make accept-futures, accept-multiprocessing, accept-pathos
#             the tests that others have written for what we stand in for
#
# Each sets up what it needs in .venv. Another Python, in another place:
#     make test PYTHON=python3.13 VENV=.venv313

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint types floors check format coverage clean
.SECONDARY: # stamps are kept: what is installed is not installed again
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(VENV)/.installed-examples
	$(BIN)/python examples/nested_sweep.py

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

coverage: $(VENV)/.installed-test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

ACCEPT := accept-futures accept-multiprocessing accept-pathos
.PHONY: $(ACCEPT)
$(ACCEPT): accept-%: $(VENV)/.installed-test
	$(BIN)/python tests/acceptance/accept_$*.py

clean:
	rm -rf $(VENV) build dist bench-results *.egg-info .coverage .coverage.* .hypothesis \
	    .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra. The package itself is installed in place, so its source is no prerequisite.
$(VENV)/.installed-%: $(VENV)/.created pyproject.toml
	@echo "installing parallelkit[$*] into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "'$(PYTHON)' was not found; name a Python of 3.11 or later: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("parallelkit needs Python 3.11 or later, and \
	$(PYTHON) is %d.%d; name another one: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	@touch $@
