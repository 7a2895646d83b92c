# make quickstart: set everything up and run the main job.   make test: linters, types, tests.   make docs: pages in site/.
# make evidence: measure again what README and docs claim and whose code changed since; hours, goes on where it was.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
# What trains, prunes or compares networks: its floats depend on the instructions of the CPU, its verdicts must not.
TRAINING := tests/search tests/models tests/exporters tests/pipeline tests/training tests/report/test_growth.py \
    tests/test_golden.py

.PHONY: quickstart test docs evidence pytest test-portable lint types clean

quickstart: $(STAMP)
	rm -rf runs/quickstart
	$(BIN)/compressor run recipes/quickstart.yaml -o runs/quickstart

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

evidence: $(STAMP)
	$(BIN)/python experiments/evidence.py run

# Types are checked beside the tests, whose workers leave a core idle now and then.
test: $(STAMP)
	@$(MAKE) --no-print-directory -j 2 lint types pytest

pytest: $(STAMP)
	$(PYTEST)

# The same verdicts with the instructions of other CPUs (the machine's own are those of `make test`).
test-portable: $(STAMP)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(TRAINING)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(PYTEST) $(TRAINING)

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
	rm -rf $(VENV) .mypy .mypy_cache .ruff_cache .pytest_cache build runs site
