# One command is enough on a fresh machine: every target makes its own environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint unit wheel browser docs soak long bench train-builtin clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

demo: $(READY)  ## the main job on the built-in model and SQLite, in two processes
	$(BIN)/deltamem demo

test: lint unit wheel  ## everything that must be green

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(READY) browser
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not gpu and not network and not long"

browser:  ## pages are tested in a real browser, where one can be had
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y chromium; } \
		|| echo "no chromium: the page's browser test will skip, or fail with CI set"

docs: $(READY)  ## the documentation as a site, offline once its tools are installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python docs/generate_errors.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(READY)  ## the wheel, in an empty environment without the checkout, runs the demo
	$(BIN)/python tests/packaging/check_wheel.py

soak: $(READY)  ## long random conversations against the oracle
	$(BIN)/python -m pytest -m long tests/graph

long: $(READY)  ## the long forms of the shortened tests
	$(BIN)/python -m pytest -m "long and not gpu and not network"

bench: $(READY)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

# Batches differ in size, and glibc hands their memory back and fetches it again at every step.
train-builtin: KEEP = MALLOC_MMAP_THRESHOLD_=4294967295 MALLOC_TRIM_THRESHOLD_=17179869184
train-builtin: $(READY)  ## make the built-in model again from its seed (about an hour on a core)
	$(KEEP) $(BIN)/python -m deltamem_agents.training.builtin --seed 1

clean:
	rm -rf $(VENV) build dist *.egg-info
