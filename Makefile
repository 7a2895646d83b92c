# make quickstart: set everything up and run the main job.   make test: linters, types, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: quickstart test lint types clean

quickstart: $(STAMP)
	rm -rf runs/quickstart
	$(BIN)/compressor run recipes/quickstart.yaml -o runs/quickstart

test: lint types
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy has to see the packages where setup.cfg puts them, so it checks an installed copy.
types: $(STAMP)
	rm -rf .mypy build
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --target .mypy .
	MYPYPATH=.mypy $(BIN)/mypy -p compressor

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy .mypy_cache .ruff_cache .pytest_cache build runs
