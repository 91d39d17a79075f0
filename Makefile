# The one list of tasks; people, hooks and .ci/run call the same targets.
.DEFAULT_GOAL := help
SHELL := bash

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUNS   ?= runs
# What `make install` installs: this folder, or a wheel that was built from it.
PACKAGE ?= .
# MLX's Linux backends overwrite each other's library: exactly one is installed. A Mac needs none.
BACKEND ?= $(if $(filter Darwin,$(shell uname)),,cpu)
comma   := ,
EXTRAS  := $(if $(BACKEND),$(BACKEND)$(comma))extra
SOURCES := Cargo.toml Cargo.lock pyproject.toml \
           $(shell find rust python -name '*.rs' -o -name '*.toml' -o -name '*.py' -o -name '*.pyi')
# Work stealing: the learning runs come in a row, and one worker alone would get them all.
PYTEST_ARGS ?= -n 2 --dist worksteal
BENCH_ARGS ?=
# Pythons that have a peer already, for bench-peers; none leaves one out. BASELINE: see benchmarks/peers.py.
export PEER_SB3 PEER_SBX PEER_RLOX PEER_ENVPOOL PEER_PYTHON

.PHONY: help install dev train test test-rust test-python test-fast test-bounds test-peers coverage fuzz lint format \
        bench bench-peers bench-gpu clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip  # --group needs 25.1
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy only-if-needed --group test --group lint '$(PACKAGE)[$(EXTRAS)]'
	@touch $@

install: $(VENV)/.installed ## make a virtual environment, build the wheel and install it there

# No stamp: `make install`, and every target that needs it, puts the wheel back.
dev: | $(BIN)/python ## the same as an editable install: edited Python counts at once
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group dev
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --extras '$(EXTRAS)'
	rm -f $(VENV)/.installed

train: install ## train PPO on CartPole-v1, save, load, evaluate, and draw the learning curve
	$(BIN)/python examples/train_cartpole.py --out $(RUNS)/cartpole

test: test-rust test-python ## all tests, Rust and Python, learning runs included

test-rust: ## the Rust core's tests; they need no Python
	cargo test --quiet

test-python: install ## the Python tests, against the installed wheel
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: install ## the Python tests without the learning runs
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m 'not learning and not peers'

test-peers: install ## models of ours in SB3 (SB3_PYTHON names an interpreter that has it)
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m peers

coverage: install ## test-fast with the lines and branches that no test reaches; a page in runs/coverage
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m 'not learning and not peers' --cov --cov-report=term --cov-report=html:$(RUNS)/coverage

fuzz: install ## feed 200,000 mutated model files to the readers, and make a million calls of _native
	$(BIN)/python tests/fuzz/fuzz_archives.py --keep $(RUNS)/fuzz
	$(BIN)/python tests/fuzz/fuzz_native.py --count 1000000

# The lowest and the newest of what pyproject.toml allows; one wheel serves every Python.
OLDEST_PYTHON ?= $(shell for v in 3.10 3.11 3.12; do python$$v -c 'import sys; print(sys.executable)' 2>/dev/null && break; done)
NEWEST_PYTHON ?= $(shell for v in 3.14 3.13 3.12; do python$$v -c 'import sys; print(sys.executable)' 2>/dev/null && break; done)
BOUNDS := $(RUNS)/bounds
test-bounds: install ## test-fast on the oldest and the newest Python, NumPy and Gymnasium, from one wheel
	rm -rf $(BOUNDS)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(BOUNDS) .
	$(or $(OLDEST_PYTHON),$(PYTHON)) -m venv $(BOUNDS)/oldest
	$(or $(NEWEST_PYTHON),$(PYTHON)) -m venv $(BOUNDS)/newest
	for bound in oldest newest; do $(BOUNDS)/$$bound/bin/python -m pip install --quiet --upgrade pip || exit 1; done
	$(BOUNDS)/oldest/bin/python -m pip install --quiet --group test "$$(echo $(BOUNDS)/*.whl)[$(EXTRAS)]" 'numpy==1.26.*' 'gymnasium==0.29.*'
	$(BOUNDS)/newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --group test "$$(echo $(BOUNDS)/*.whl)[$(EXTRAS)]"
	for bound in oldest newest; do \
		echo "$$bound: $$($(BOUNDS)/$$bound/bin/python -c 'import platform, gymnasium, numpy; print("Python", platform.python_version(), "NumPy", numpy.__version__, "Gymnasium", gymnasium.__version__)')"; \
		$(BOUNDS)/$$bound/bin/python -m pytest $(PYTEST_ARGS) -m 'not learning and not peers' || exit 1; \
	done

lint: install ## formatters and linters in check mode, spelling, types, stub against the built module
	cargo fmt --all --check
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(BIN)/ruff format --check python tests examples benchmarks
	$(BIN)/ruff check python tests examples benchmarks
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest mlx_baselines3._native --mypy-config-file pyproject.toml

format: install ## rewrite the sources as the formatters want them
	cargo fmt --all
	$(BIN)/ruff format python tests examples benchmarks
	$(BIN)/ruff check --fix python tests examples benchmarks

bench: install ## measure; prints tables of ratios and leaves them in runs/benchmarks
	cargo bench --bench '*' -- --warm-up-time 1 --measurement-time 2
	$(BIN)/python benchmarks/run.py --out $(RUNS)/benchmarks $(BENCH_ARGS)

bench-peers: install ## the same against SB3, SBX, rlox and EnvPool, installed apart (PEER_SB3=python takes one)
	$(BIN)/python benchmarks/peers.py
	cargo bench --bench '*' -- --warm-up-time 1 --measurement-time 2
	$(BIN)/python benchmarks/run.py --peers --out $(RUNS)/benchmarks $(BENCH_ARGS)

# A Python of a machine with a GPU that has this package, and torch and JAX if they are to be compared.
GPU_PYTHON ?= $(PYTHON)
bench-gpu: ## gradient steps on a GPU beside a bare MLX script, torch and JAX (GPU_PYTHON has them)
	$(GPU_PYTHON) benchmarks/gpu.py --out $(RUNS)/benchmarks $(BENCH_ARGS)

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-peers target $(RUNS) .pytest_cache .mypy_cache .ruff_cache
