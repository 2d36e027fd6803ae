# `make run` and `make test` set up the environment they need, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# An environment contains absolute paths, so a moved one is created again.
MOVED := $(shell [ ! -f $(VENV)/.root ] || [ "$$(cat $(VENV)/.root)" = "$(CURDIR)" ] || rm -rf $(VENV))

.PHONY: run test test-all faults fuzz check format bench docs repro lock clean

run: $(VENV)/.run
	@chapterflow run

# Tests also wait, for servers for instance, so three processes keep two cores busy.
test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-all:
	@CHAPTERFLOW_FUZZ=$${CHAPTERFLOW_FUZZ:-1000} $(MAKE) --no-print-directory test ARGS='-m "" $(ARGS)'

faults:
	@$(MAKE) --no-print-directory test ARGS='-m fault --faults $(ARGS)'

fuzz:
	@CHAPTERFLOW_FUZZ=$${CHAPTERFLOW_FUZZ:-100000} $(MAKE) --no-print-directory test \
	ARGS='-m "" --dist load --faults tests/data/test_fuzz.py $(ARGS)'

check: $(VENV)/.dev
	ruff format --check .
	ruff check .
	mypy
	lint-imports

format: $(VENV)/.dev
	ruff format .
	ruff check --fix .

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev
	@$(BIN)/python -m sphinx -q -W --keep-going -c docs . site
	@echo "site/index.html"

repro: $(VENV)/.run
	@chapterflow data fetch
	@dvc repro

# The lock files name no index: they install from the one that pip or uv is configured for.
COMPILE = uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml
lock: $(VENV)/.run
	$(COMPILE) -o requirements.lock
	$(COMPILE) --extra dev -c requirements.lock -o requirements-dev.lock

clean:
	rm -rf $(VENV) .chapterflow .prefect site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); \
	sys.exit(None if ok else "Python 3.11, 3.12 or 3.13 is needed. Received: " + sys.version.split()[0] + \
	". Name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@printf '%s\n' "$(CURDIR)" > $(VENV)/.root
	-@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# uv installs in seconds; if it fails (no wheel, other index configuration), pip does the same. With
# hashes, older pips refuse dependencies with extras; --no-deps, because the files name every dependency.
define install
	@echo "Installing $(1) into $(VENV)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r $(1) || \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(1)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
endef

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	$(call install,requirements.lock)

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	$(call install,requirements-dev.lock)
	@touch $(VENV)/.run
