# make demo   a sweep over a model's parameters: table, picture, what it gained (two minutes the first time)
# make test   every check: lint, format, types, floors, tests
# make docs   the documentation as a site, in build/docs; warnings are errors
# make dist   wheel and sdist, in dist; checked, and the sdist's own tests run from the unpacked archive
# make test-oldest, test-newest
#             types and the core's tests with the oldest packages that pyproject.toml admits, and
#             under the newest Python with the newest packages (a minute or two each)
# make test-forked, test-anew
#             all tests, with fork servers forked from the caller wherever that is safe, and with new ones alone
# make fuzz   random programs and arrays beside what they must give, for ten minutes each (FUZZ=seconds)
# make test-without   the contract and the faults as on systems that have less than Linux: with each
#             of the ways that only Linux has switched off (WITHOUT="memfd proc": with these), and all
# make test-clusters
#             all of clusters: faults, executors, and the whole contract on loky, Dask, Ray and MPI, each
#             started and ended by it; a quarter of an hour (CLUSTERS=dask,ray: the contract on these)
# make test-library   a package that depends on this one, both built and installed as wheels: its own tests under
#             pytest-xdist, within joblib, scikit-learn, executors, asyncio and a server; its coverage, its types
# make test-libraries   a real call of each library that takes a pool of ours
# make test-notebook   examples/sweep.ipynb, run with nobody at the keyboard; its pictures in build/notebook
# make test-windows, test-windows-all
#             the contract under a Windows Python, which Wine runs (needs apt the first time); and faults, sweeps,
#             ways to start a program and all else that passes there, and the contract on 3.12 (an hour or two)
# make bench  the benchmarks, side by side with the peers
# make accept-futures, accept-multiprocessing, accept-pathos, accept-joblib, accept-sklearn
#             the tests that others have written for what we stand in for
#
# Each sets up what it needs in .venv. Another Python, in another place:
#     make test PYTHON=python3.13 VENV=.venv313

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest test-newest test-forked test-anew test-without test-clusters test-library test-libraries test-notebook test-windows test-windows-all fuzz docs dist bench accept-joblib accept-sklearn lint types floors check format coverage clean
.SECONDARY: # stamps are kept: what is installed is not installed again
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(VENV)/.installed-examples
	$(BIN)/python examples/sweep.py

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

# Both ends of what pyproject.toml admits, in a short form: the tests of all that is built on others.
OLDEST ?= python3.11
NEWEST ?= python3.13
CORE := $(patsubst %,tests/test_%.py,arrays blas blocks dropins executor facade functions fuzz_arrays joblib \
    nesting progress transport)

test-oldest:
	$(MAKE) VENV=.venv-oldest PYTHON=$(OLDEST) .venv-oldest/.installed-oldest
	.venv-oldest/bin/python -m pytest -q $(CORE)

test-newest:
	$(MAKE) VENV=.venv-newest PYTHON=$(NEWEST) .venv-newest/.installed-test
	.venv-newest/bin/mypy
	$(FORKED) .venv-newest/bin/python -m pytest -q -o faulthandler_timeout=0 $(CORE)

# As where fork servers are copies of the caller, also those of tests that name the start method.
# (faulthandler watches time in a thread, beside which nothing is forked.)
FORKED := PARALLELKIT_FORK_SERVER=forked
test-forked: $(VENV)/.installed-test
	$(FORKED) $(BIN)/python -m pytest -o faulthandler_timeout=0 tests

# As where none can be: also those of scripts, which else have copies.
test-anew: $(VENV)/.installed-test
	PARALLELKIT_FORK_SERVER=new $(BIN)/python -m pytest tests

CONTRACT := $(patsubst %,tests/test_%.py,arrays blocks errors facade functions inputs lazy library nesting \
    progress seeds settings telling transport options)

WITHOUT ?= affinity allocate epoll fds forking memfd parent-signal pidfd pipe-signal proc sleeps all
FAULTS := $(patsubst %,tests/test_%.py,ageing crashes death exits fork_server limits storm timeouts)
test-without: $(VENV)/.installed-test
	set -e; for missing in $(WITHOUT); do \
	    PARALLELKIT_WITHOUT=$$missing $(BIN)/python -m pytest -q $(CONTRACT) $(FAULTS); done

# One engine after the other: each wants the whole machine.
# Under MPI the tests are the first rank, and two more run the items.
CLUSTERS ?= loky,dask,ray,mpi
comma := ,
MPI := $(BIN)/mpiexec -n 3 $(BIN)/python -m mpi4py.futures -m pytest
test-clusters: $(VENV)/.installed-clusters
	PATIENCE=300 $(BIN)/python -m pytest tests/test_clusters.py tests/test_dask.py tests/test_ray.py tests/test_engines.py
	set -e; for engine in $(subst $(comma), ,$(CLUSTERS)); do \
	    if [ $$engine = mpi ]; then run="$(MPI)"; else run="$(BIN)/python -m pytest"; fi; \
	    PATIENCE=300 CLUSTERS=$$engine $$run -o timeout=360 -k "$$engine] or $$engine-" $(CONTRACT) tests/test_limits.py; done

test-notebook: $(VENV)/.installed-notebook
	mkdir -p build/notebook
	NOTEBOOK_PICTURES=$(abspath build/notebook) $(BIN)/python -m pytest tests/test_notebook.py

# Beside its tests there is no source, so that they see what is installed.
LIBRARY := build/library
LIBRARY_BIN := $(abspath $(LIBRARY))/venv/bin
test-library: $(VENV)/.installed-dist
	rm -rf $(LIBRARY)
	mkdir -p $(LIBRARY)
	cp -r tests/library $(LIBRARY)/source
	$(BIN)/python -m build --outdir $(LIBRARY)/wheels .
	$(BIN)/python -m build --outdir $(LIBRARY)/wheels $(LIBRARY)/source
	$(PYTHON) -m venv $(LIBRARY)/venv
	$(LIBRARY_BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --find-links $(LIBRARY)/wheels 'smallstats[test]' $(LIBRARY)/wheels/parallelkit-*.whl
	cd $(LIBRARY)/source/src && $(abspath $(BIN))/mypy --strict --ignore-missing-imports \
	    --python-executable $(LIBRARY_BIN)/python -p smallstats
	cd $(LIBRARY)/source/src && $(abspath $(BIN))/pyright --pythonpath $(LIBRARY_BIN)/python smallstats
	mv $(LIBRARY)/source/tests $(LIBRARY)/source/pyproject.toml $(LIBRARY)
	cd $(LIBRARY) && $(LIBRARY_BIN)/python -m pytest -n 2 --cov --cov-fail-under=100

test-libraries: $(VENV)/.installed-libraries
	$(BIN)/python -m pytest tests/test_libraries.py

# Under Wine. The contract takes less than ten minutes of a machine that has nothing else to do.
test-windows:
	tests/windows/prepare .windows
	tests/windows/run .windows $(CONTRACT)

# Each file for itself, so that what hangs costs no other.
ON_WINDOWS := $(CONTRACT) $(FAULTS) $(patsubst %,tests/test_%.py,budget executor first_calls idle lending packages \
    scheduler scripts sizes sweep sweep_code sweep_commands sweep_pruning sweep_store sweep_strangers sweep_together \
    windows worker_options)
WITHOUT_NUMPY := $(patsubst %,tests/test_%.py,crashes death errors exits facade options progress scheduler scripts \
    sweep_pruning telling windows)
test-windows-all:
	tests/windows/prepare .windows
	tests/windows/prepare .windows-3.12 3.12
	tests/windows/prepare .windows-3.13 3.13
	failed=; for each in $(ON_WINDOWS:%=.windows:%) $(CONTRACT:%=.windows-3.12:%) $(WITHOUT_NUMPY:%=.windows-3.13:%); do \
	    LIMIT=3600 tests/windows/run $${each%%:*} -q $${each#*:} || failed="$$failed $$each"; done; \
	    echo "failed:$${failed:- nothing}"; [ -z "$$failed" ]

FUZZ ?= 600
fuzz: $(VENV)/.installed-test
	$(BIN)/python tests/test_fuzz_arrays.py $(FUZZ)
	end=$$(($$(date +%s) + $(FUZZ))); while [ $$(date +%s) -lt $$end ]; do \
	    $(BIN)/python -m pytest -qx --hypothesis-profile=fuzz tests/test_fuzz.py || exit 1; done

coverage: $(VENV)/.installed-test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages that were made for names which are gone would be warnings.
docs: $(VENV)/.installed-docs
	rm -rf docs/reference/generated
	$(BIN)/python -m sphinx -W --keep-going --quiet -d build/doctrees docs build/docs
	@echo "the documentation: build/docs/index.html"

# The checks are of what a user gets: the wheel, in an environment of its own, and the unpacked sdist.
# DIST_TESTS: which of its tests to run; all of them by default.
DIST := build/dist
DIST_BIN := $(abspath $(DIST))/venv/bin
dist: $(VENV)/.installed-dist
	rm -rf dist $(DIST)
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(DIST)/venv
	$(DIST_BIN)/python -m pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[all]"
	cp -r tests/typing $(DIST)/typing
	cd $(DIST)/typing && $(abspath $(BIN))/mypy --strict --config-file= --warn-unused-ignores \
	    --python-executable $(DIST_BIN)/python user.py wrong.py
	cd $(DIST)/typing && $(abspath $(BIN))/pyright --pythonpath $(DIST_BIN)/python user.py wrong.py
	cd $(DIST)/typing && $(DIST_BIN)/python user.py
	mkdir $(DIST)/sdist && tar -xzf dist/*.tar.gz -C $(DIST)/sdist --strip-components=1
	cd $(DIST)/sdist && $(DIST_BIN)/python -m pip install --quiet --disable-pip-version-check '.[test]' && \
	    $(DIST_BIN)/python -m pytest $(DIST_TESTS)

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

SUITES := accept-futures accept-multiprocessing accept-pathos
.PHONY: $(SUITES)
$(SUITES): accept-%: $(VENV)/.installed-test
	$(BIN)/python tests/acceptance/accept_$*.py

# The tests of other packages, as installed, on our workers. ACCEPT: more arguments for pytest.
ACCEPTANCE := $(BIN)/python -m pytest -c tests/acceptance/pytest.ini

accept-joblib: $(VENV)/.installed-test
	$(ACCEPTANCE) -p tests.acceptance.joblib_plugin $(ACCEPT) --pyargs joblib.test.test_parallel

accept-sklearn: $(VENV)/.installed-test
	$(ACCEPTANCE) -p tests.acceptance.sklearn_plugin $(ACCEPT) --pyargs \
	    sklearn.utils.tests.test_parallel sklearn.model_selection sklearn.ensemble

clean:
	rm -rf $(VENV) build dist docs/reference/generated bench-results *.egg-info .coverage .coverage.* .hypothesis \
	    .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The floors themselves. Nothing else is installed that could ask for more.
$(VENV)/.installed-oldest: $(VENV)/.created pyproject.toml tests/floors.py
	$(BIN)/python tests/floors.py joblib >$(VENV)/floors.txt
	@echo "installing the oldest that is admitted into $(VENV):" $$(cat $(VENV)/floors.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --constraint $(VENV)/floors.txt --editable '.[joblib,pytest]'
	@touch $@

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
