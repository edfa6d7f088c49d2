# Two commands from a fresh clone, with only Python, pip and make:
#   make demo   set up, then sweep, select, export and predict on a generated data set
#   make test   set up, then lint, types and tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test lint types tests mutants faults faults-nightly azurite setup clean
.DEFAULT_GOAL := test

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(SETUP)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(SETUP)
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three processes: one waits for what it has started while two compute.
tests: $(SETUP)
	$(BIN)/pytest -n 3 --dist worksteal

# mypy keeps one core busy and the tests take a while to fill both, so they run side by side.
test: lint
	$(MAKE) --no-print-directory --jobs 2 types tests

# Faults planted in the modules that decide numbers: do their tests notice? An hour, and it goes on
# where it ended; `make mutants MUTANTS="--module trainable.model.heads"` is one module's.
MUTANTS :=
mutants: $(SETUP)
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

# Many more faults than in `make test` (an hour), and all pages in a browser. `make faults
# TABLE=docs/reliability.md` writes the results into the page. faults-nightly has even more faults.
TABLE :=
AZURITE := $(CURDIR)/$(VENV)/azurite
FAULTS := ENSWEEP_AZURITE=$(AZURITE)/node_modules/.bin ENSWEEP_FAULTS_TABLE=$(TABLE) $(BIN)/pytest -n 2 --dist worksteal
faults: azurite
	ENSWEEP_FAULTS_SCALE=10 $(FAULTS) --timeout 7200 tests/faults tests/browser

faults-nightly: azurite
	ENSWEEP_FAULTS_SCALE=100 $(FAULTS) --timeout 72000 tests/faults tests/browser

# Emulates Azure's object store. Its tests are skipped if npm is missing or offline.
azurite: $(SETUP)
	-test -d $(AZURITE)/node_modules || npm install --silent --no-audit --no-fund --prefix $(AZURITE) azurite@3.37.0

# What is installed, by SHA-256 (docs/security.md). The lock is of this Python and platform.
REPORT := $(BIN)/python -m pip install --dry-run --ignore-installed --quiet --report -
lock: $(SETUP)
	$(REPORT) --constraint constraints.txt '.[dev]' | $(BIN)/python deploy/lock.py > requirements.lock

locked:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .

sbom: $(SETUP)
	$(BIN)/python deploy/sbom.py > sbom.json

audit: $(SETUP)
	$(BIN)/pip-audit --requirement requirements.lock || echo "not audited, unless findings stand above"

wheel: $(SETUP)
	SOURCE_DATE_EPOCH=315532800 $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build *.egg-info demo
