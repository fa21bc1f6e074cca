# make demo: see it work. make test: run the tests. make help: the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS := $(VENV)/.docs
NPM := .npm/.installed
FOCUS := .focus/.installed
# Test processes: more than processors, for most tests wait. One for a single file, which is done before more have begun.
JOBS ?= $(if $(findstring .py,$(ARGS)),0,4)
# Thousands of processes are started, each half as long where bytecode is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo picture ready test test-all check collect docs format bench bench-quick figures chaos clean

help:  ## say what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/' | expand -t 12

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info < (3, 14); \
	  sys.exit(None if ok else "Python 3.10 to 3.13 is needed: make PYTHON=/path/to/python3.12 ...")'
	$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: install it, or use make PYTHON=..."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

# Look-alikes of vendors that run on node: without npm their tests are skipped, and say so.
$(NPM): package.json
	@if command -v npm >/dev/null; then \
	  mkdir -p .npm && cp package.json .npm/ && \
	  if npm install --prefix .npm --no-audit --no-fund --loglevel=error; then touch $@; \
	  else echo "npm could not install them: their tests will be skipped"; test -z "$$CI"; fi; \
	else echo "npm is missing: tests against its look-alikes will be skipped"; fi

# What checks files of FOCUS, in an environment of its own: it wants older packages than ours. Where it cannot be
# installed its test is skipped, and says so; it is what there is for the Python here.
$(FOCUS): $(STAMP)
	@mkdir -p .focus && rm -f .focus/.absent
	@{ $(BIN)/python -m venv .focus && .focus/bin/python -m pip install --quiet --disable-pip-version-check \
	  'focus-validator>=1.0,<2' 'multimethod<2'; } || { echo "focus-validator could not be installed: its test is skipped"; touch .focus/.absent; }
	@touch $@

ready: $(STAMP) $(DOCS) $(NPM) $(FOCUS)  ## install what is needed, and do nothing

demo: $(STAMP)  ## the accident under stock Luigi and under a cap (KEEP=1 leaves the server up)
	$(BIN)/python -m tests.demo $(if $(KEEP),--keep)

picture: $(STAMP)  ## take the README's picture of the Budgets tab again, from the demo
	$(BIN)/python -m tests.demo --picture docs/budgets-tab.png

# A file's tests stay together, for they share servers; in the folders' order, so that unit's short files end it.
test: $(STAMP) $(NPM) $(FOCUS)  ## all tests (JOBS=1: in one process)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# On PATH, or with pyenv; each has its own virtual environment, and one of the acceptance tests.
test-all:  ## the unit tests and the billing pipeline, on each Python from 3.10 to 3.13 that is found
	@failed= absent=; for version in 3.10 3.11 3.12 3.13; do \
	  for python in python$$version $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version.*/bin/python none; do \
	    "$$python" -c "import ensurepip" 2>/dev/null && break; \
	  done; \
	  if [ $$python = none ]; then absent="$$absent $$version"; continue; fi; \
	  $(MAKE) test PYTHON=$$python VENV=.venv-$$version JOBS=$(JOBS) \
	    ARGS="tests/unit tests/acceptance/test_billing.py $(ARGS)" || failed="$$failed $$version"; \
	done; \
	echo "failed:$${failed:- none}; not found:$${absent:- none}"; test -z "$$failed"

check: $(STAMP)  ## lint, format, types, import order, and that the simulator's mutants fit the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet -k can_be_made tests/simulation/test_simulation.py

# Test processes find all tests compiled then; each would do that for itself, which takes three times as long.
collect: $(STAMP)  ## read all tests, and run none
	@found=$$($(BIN)/python -m pytest --quiet --collect-only 2>&1) || { echo "$$found"; exit 1; }; echo "$$found" | tail -1

docs: $(DOCS)  ## build the documentation into build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

format: $(STAMP)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure speed and size beside stock Luigi and others, some hours; write docs/performance.md
	$(BIN)/python -m bench $(ARGS)

bench-quick: $(STAMP)  ## a little of each but the peers, in two minutes
	$(BIN)/python -m bench --quick $(ARGS)

figures: $(STAMP)  ## the races, 20 times each, 10,000 malformed requests and forms, long generated tests, all combinations
	$(BIN)/python -m pytest -m "figures or hypothesis or combinations" --combinations --repeats 20 --malformed 10000 --tamperings 1000 --hypothesis-profile long $(ARGS)

MINUTES ?= 10
chaos: $(STAMP)  ## 100,000 histories of the simulator (N=); then let everything fail, by seed, for so long (MINUTES=10)
	$(BIN)/python -m tests.simulation --many $(or $(N),100000)
	$(BIN)/python -m tests.faults --minutes $(MINUTES) $(ARGS)

clean:  ## remove what make has installed
	find bench luigi_spendguard scheduler_patch tests -name __pycache__ -prune -exec rm -rf {} +
	rm -rf $(VENV) .venv-3.* .npm build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
