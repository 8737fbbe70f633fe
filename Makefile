# Each target sets up its own virtual environment; nothing else is needed than python3.11 and make.
PYTHON ?= python3.11
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types contracts wheel-test coverage clean

demo: $(INSTALLED)
	$(VENV)/bin/python examples/demo/run.py

# One thread: on a busy machine two of them wait for each other far longer than the tests' small tensors take.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(INSTALLED)
	$(VENV)/bin/mypy

contracts: $(INSTALLED)
	$(VENV)/bin/lint-imports

coverage: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --cov --cov-report=term-missing:skip-covered

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[parquet,tracking,dev]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) runs probes reports/ckpt-* reports/clean-*
