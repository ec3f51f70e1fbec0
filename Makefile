# One command for each thing: `make demo` runs the main job, `make test` proves the code.
# Both make .venv and install first; a second run reuses it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo chromium test test-all fuzz lint audit docs bench engines faults runtime-check \
        consumers clean
.DEFAULT_GOAL := help

help:
	@echo "make install | demo | test | test-all | fuzz | lint | audit | docs | bench | engines | faults | runtime-check | consumers | clean"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed; name one with PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# What examples/browser loads, and the tests of --for web; they are skipped where Node is missing.
BROWSER := examples/browser/node_modules
$(BROWSER): examples/browser/package-lock.json
	if command -v npm; then npm ci --silent --ignore-scripts --prefix examples/browser && touch $@; fi

demo: $(INSTALLED)
	$(BIN)/pivl-distill demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Parallel workers of one thread each: more threads per worker only compete for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 \
          --dist loadscope --max-worker-restart 0

# The pinned packages against the advisory database of PyPI; without a connection it fails.
audit:
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && \
	build/audit/bin/python -m pip install --quiet pip-audit; }
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

# Debian's Chromium, which opens pages in tests; they are skipped where it cannot be installed.
chromium:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } || \
	echo "Chromium is missing and only root can install it here: tests of pages are skipped"

test: lint chromium $(BROWSER)
	$(PYTEST) -m "not slow"

# Also the slow tests: several processes, killed and resumed runs, real engines, full-size presets.
test-all: test
	$(PYTEST) -m slow

# Random damaged inputs of every sort for so many minutes, or INPUTS of each. What fails is kept in
# tests/fuzz/regressions, where `make test` examines it again.
MINUTES ?= 10
fuzz: $(INSTALLED)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz \
	$(if $(INPUTS),--inputs $(INPUTS),--minutes $(MINUTES)) $(if $(RECORD),--record)

# The documentation as a site in build/site; broken links and pages outside the index are errors.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --clean

# Each figure beside its baseline; benchmarks/latest.json holds those of one run. All are measured,
# and then make fails if one missed its target.
BENCHMARKS := startup input synthetic_rate text_encoder part_contrast student_step compiled_step \
              retrieval scale exported_latency int8_latency
bench: $(INSTALLED)
	rm -f benchmarks/latest.json
	missed=; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || missed="$$missed $$name"; done; \
	test -z "$$missed" || { echo "Targets missed by:$$missed"; exit 1; }

# Students and teachers as TensorRT-RTX engines, in fp32, fp16 and int8; no GPU needed.
engines: $(INSTALLED)
	$(BIN)/python benchmarks/engine_builds.py

# Kills, full disks, damaged caches and jumping clocks, on every command; continues if it was stopped.
faults: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.faults

# Deployment without torch, on the latest export: with the newest and the oldest packages.
runtime-check: $(INSTALLED)
	$(BIN)/python benchmarks/torch_free.py

# The latest export in every program that it can be made for, in their own code.
consumers: $(INSTALLED) $(BROWSER)
	$(BIN)/python benchmarks/consumers.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
