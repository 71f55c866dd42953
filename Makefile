# make demo   set up, then run the main job on the embedded models (4 to 6 minutes on 2 cores)
# make test   set up, then lint, type-check and test
# make test-fast  the same without what takes long (about 80 seconds on 2 cores)
# make study-demo  set up, and open a preference study of the demo's edits
# make perf   set up, then measure the speed ratios of the README
# make full-size  set up, then run the path of a GPU's user at full size with random weights (needs 7 GB of disk)
# make coverage  set up, then simulate how often the intervals hold the truth and the tests err
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.prompteditbench-ready

# Any Python from 3.11 on. `make PYTHON=/path/to/python3 setup` picks one by hand.
PYTHON ?=

.PHONY: help setup demo study-demo test test-fast lint types perf full-size coverage lock clean

help:
	@sed -n 's/^# \(make .*\)/  \1/p' Makefile

setup: $(STAMP)

# Once the stamp is newer than the pinned requirements, nothing here touches the network.
$(STAMP): requirements/base.txt requirements/dev.txt pyproject.toml
	@python="$(PYTHON)"; \
	ok='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; \
	if [ -x $(BIN)/python ]; then python=$(BIN)/python; fi; \
	if [ -z "$$python" ]; then \
	  for candidate in python3 python3.13 python3.12 python3.11; do \
	    if "$$candidate" -c "$$ok" >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	  done; \
	fi; \
	if [ -z "$$python" ] || ! "$$python" -c "$$ok" >/dev/null 2>&1; then \
	  echo "PromptEditBench needs Python 3.11 or newer with venv (on Debian: apt install python3-venv);" >&2; \
	  echo "found: $$("$${python:-python3}" --version 2>&1 || true). Name another one: make PYTHON=/path/to/python3.11 setup" >&2; \
	  exit 1; \
	fi; \
	if [ ! -x $(BIN)/python ]; then echo "making $(VENV) with $$($$python --version)"; "$$python" -m venv $(VENV); fi
	@echo "installing the pinned requirements (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $(STAMP)

# First a few instructions without masks on pictures that are not square: seconds. The demo's tables come last.
demo: $(STAMP)
	@$(BIN)/python run_bench.py run mini-gedit --limit 2 --out runs/mini-gedit
	@$(BIN)/python run_bench.py demo

study-demo: $(STAMP)
	@[ -f runs/demo/run.json ] || $(BIN)/python run_bench.py demo
	@$(BIN)/python -m bench.study.demo

test: $(STAMP) lint types
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

test-fast: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile --durations 0 --durations-min 2 -m "not slow"

lint: $(STAMP)
	@$(BIN)/python -m ruff check .

types: $(STAMP)
	@$(BIN)/python -m mypy

perf: $(STAMP)
	@$(BIN)/python tests/perf/perf.py
	@$(BIN)/python tests/perf/study.py
	@$(BIN)/python tests/perf/crowd.py
	@$(BIN)/python tests/perf/report.py
	@$(BIN)/python tests/perf/set_intervals.py

full-size: $(STAMP)
	@$(BIN)/python tests/perf/full_size.py

coverage: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/perf/coverage.py

# Re-resolve the pins, for every supported Python and platform at once, into names, versions and
# hashes; no address of any package index is written. Needs `uv` (pip install uv).
lock:
	@for set in base dev ray faces; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links --override requirements/overrides.txt \
	    requirements/$$set.in --output-file requirements/$$set.txt; \
	done

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
