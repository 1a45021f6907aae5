# Needs Python 3.11 or 3.12 and make; everything else goes into .venv. PYTHON=... picks the interpreter.
PYTHON ?=
# Pytest workers: one per core, as each mostly waits for a compiler that uses one.
WORKERS ?= logical
# For example: make run ARGS="--preset smoke", make test ARGS="tests/scaling -x", make test ARGS="-m slow".
ARGS ?=

bin := .venv/bin
stamp := .venv/.installed

.PHONY: install run test lint format bench lock

install: $(stamp)

$(stamp): pyproject.toml constraints.txt tools/install.sh
	PYTHON="$(PYTHON)" sh tools/install.sh
	touch $@

run: install
	$(bin)/python -m experiments.dmft_limit $(ARGS)

test: install
	$(bin)/python -m pytest -n $(WORKERS) --maxprocesses 8 --durations 10 $(ARGS)

lint: install
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

format: install
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

bench: install
	for name in import_time optimizer_overhead sweep empirical_ntk dmft decoder; do $(bin)/python -m benchmarks.$$name $(ARGS) || exit 1; done

# Rewrites constraints.txt from what pip resolves today on Python 3.11 and 3.12.
lock:
	python3 tools/lock.py
