# `make train` installs and runs the main job, `make test` installs what the tests need and runs them. One .venv for all;
# arguments go through: make train ARGS="seed=1", make test ARGS="tests/models -x".
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --no-build-isolation -c constraints.txt
ARGS ?=

BASE ?= main

.PHONY: train test check format docs bench planted kills same tables

train: .venv/.run
	$(BIN)/python train.py $(ARGS)

test: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

bench: .venv/.run
	$(BIN)/python -m evaluation.benchmark $(ARGS)

planted: .venv/.run
	$(BIN)/python -m evaluation.planted $(ARGS)

kills: .venv/.test
	FACET_KILLS=1 $(BIN)/python -m pytest tests/training/test_kills.py $(ARGS)

tables: .venv/.test
	PYTHONPATH=. $(BIN)/python tests/datamodules/random_tables.py $(ARGS)

same: .venv/.test
	$(BIN)/python tests/same_numbers.py $(BASE)

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The empty files .tools, .run, .test, .docs and .dev say what is installed; a change of the pins or of pyproject.toml
# renews it.
# Some systems ship Python without ensurepip: there the system's pip puts one into the new environment.
.venv/.tools: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Facet needs Python 3.11 or newer as '$(PYTHON)': make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv 2>/dev/null \
		|| { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install -c constraints.txt pip setuptools wheel
	@touch $@

.venv/.run: .venv/.tools pyproject.toml
	$(INSTALL) -e .
	@touch $@

.venv/.test: .venv/.tools pyproject.toml
	$(INSTALL) -e '.[test]'
	@touch $@ .venv/.run .venv/.docs

.venv/.docs: .venv/.tools pyproject.toml
	$(INSTALL) -e '.[docs]'
	@touch $@ .venv/.run

.venv/.dev: .venv/.tools pyproject.toml
	$(INSTALL) -e '.[dev]'
	@touch $@ .venv/.run .venv/.test .venv/.docs
