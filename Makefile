# Each target sets up its own virtual environment; nothing else is needed than python3.11 and make. Python compiles what
# it imports, once: where PYTHONDONTWRITEBYTECODE is set, each process would compile torch anew, in 15 CPU seconds. Pip
# would compile all 22,000 files, in a minute and a half.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3.11
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo pipeline test shapes lint types contracts coverage clean

demo: $(INSTALLED)
	$(VENV)/bin/python examples/demo/run.py

# The stages call `invmm-gate` and `python` from PATH. DVC does not see what pip did, so stage `gate` is asked each time.
pipeline: $(INSTALLED)
	export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" && dvc repro --force --single-item gate && dvc repro

# One thread: on a busy machine two of them wait for each other far longer than the tests' small tensors take.
# tests/order.py says which files start first.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# The numerics once more with the shapes in their signatures checked at run time; twice as slow, so apart from `test`.
shapes: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
	  tests/measure tests/confirm tests/similarity tests/diffusion tests/models \
	  --jaxtyping-packages=invmm_gate.measure,invmm_gate.diffusion,invmm_gate.similarity,invmm_gate.confirm,invmm_gate.models.adapters.pixel,invmm_gate.models.adapters.latent,beartype.beartype

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
