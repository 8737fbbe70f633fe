# Each target sets up its own virtual environment; nothing else is needed than python3.11 and make. Python compiles what
# it imports, once: where PYTHONDONTWRITEBYTECODE is set, each process would compile torch anew, in 15 CPU seconds. Pip
# would compile all 22,000 files, in a minute and a half.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3.11
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo pipeline test lint types contracts coverage clean

demo: $(INSTALLED)
	$(VENV)/bin/python examples/demo/run.py

# The stages call `invmm-gate` and `python` from PATH. DVC does not see what pip did, so stage `gate` is asked each time.
pipeline: $(INSTALLED)
	export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" && dvc repro --force --single-item gate && dvc repro

# One thread: on a busy machine two of them wait for each other far longer than the tests' small tensors take.
# tests/order.py says which tests start first and which stay together.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

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
	$(VENV)/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[parquet,tracking,server,curation,dev]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) runs probes reports/ckpt-* reports/clean-*
