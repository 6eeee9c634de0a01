# Every verb makes .venv first where it is missing or older than the packaging files; a re-run starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help demo cells bench test test-slow faults lint types format scatter wheel clean
.DEFAULT_GOAL := help

help:  ## list these verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "make %-9s %s\n", $$1, $$2}'

# Debian without python3-venv has no ensurepip: there the system's pip puts a pip into the environment.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

$(STAMP): setup.cfg pyproject.toml | $(BIN)/pip
	@echo 'Installing into $(VENV): the first time some minutes and 6 GB, most of it torch.'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP)  ## distil, compare and draw in a few minutes
	$(BIN)/python experiments/demo.py

cells: $(STAMP)  ## the same for classes of pixels: images of cells
	$(BIN)/python experiments/cells.py

bench: $(STAMP)  ## how fast this machine trains (make bench ARGS='scaling --quick')
	$(BIN)/python experiments/bench.py $(ARGS)

test: $(STAMP)  ## the tests and every documented example
	$(PYTEST)

test-slow: $(STAMP)  ## the rest: figures, browser, launchers, whole processes, benchmark
	$(PYTEST) -m slow tests experiments/benchmark

faults: $(STAMP)  ## damaged files, failing writes, sixty killed runs (20 minutes)
	RELGRAPH_KILLS=60 RELGRAPH_FUZZ=40 $(PYTEST) -m 'slow or not slow' tests/faults

lint: $(STAMP)  ## ruff: rules and format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict over relgraph, cli and tests
	$(BIN)/mypy

format: $(STAMP)  ## ruff: mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# No isolation: it compiles against the installed torch. No cache: pip's cached wheel carries no torch version, and one
# built for another torch fails at import.
scatter: $(STAMP)  ## build the optional torch_scatter (minutes)
	@if $(BIN)/python -c 'import torch_scatter' 2>/dev/null; then \
	  echo 'torch_scatter already works under the installed torch.'; \
	else \
	  echo 'Compiling torch_scatter: this takes five to ten minutes and needs a C++ compiler.'; \
	  printf '[build_ext]\nparallel=2\n' > $(VENV)/parallel.cfg && \
	  DIST_EXTRA_CONFIG=$(CURDIR)/$(VENV)/parallel.cfg $(BIN)/python -m pip install --use-pep517 --no-build-isolation --no-cache-dir --no-deps --force-reinstall \
	    'torch_scatter>=2.1' && \
	  $(BIN)/python -c 'import torch_scatter'; \
	fi

wheel: $(STAMP)  ## source distribution and wheel, in dist/
	$(BIN)/python -m build --outdir dist .

clean:  ## remove what the other verbs made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find relgraph cli tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
