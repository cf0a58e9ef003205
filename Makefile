# Every target installs what it needs first. `make help` lists them.

SHELL := /usr/bin/env bash
.DEFAULT_GOAL := help

PYTHON ?= python3
RUN := .venv/bin/python -m
# The folders that exist, for tools that refuse a name without Python files.
CODE := pocketkv tests examples $(if $(wildcard benchmarks/*.py),benchmarks) $(wildcard setup.py)
PYTEST_ARGS ?=
# Many tests wait for processes, so three at a time are done sooner on two cores. A file's tests stay
# together: they share what they have started. Files come in the order of their names, not those with
# most tests first: the longest have few, and would all wait for each other at the end.
PYTEST_JOBS ?= 3
IN_PARALLEL := -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder
DEMO_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?= --seconds 300
CHAOS_ARGS ?= --seconds 600
# Documentation shows whole runs only.
BENCH_DOCS := $(if $(BENCH_ARGS),,--plot $(CURDIR)/docs/ratio-over-size.svg \
  --write-docs $(CURDIR)/docs/performance.md)

# Tests start hundreds of processes. Where the environment forbids Python to keep what it has
# compiled, each of them compiles all that it imports, and takes four times as long to start.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/bytecode

# Each stands for one thing that is installed, and is as old as that.
PYTHON_READY := .venv/.ready
REDIS_READY := .venv/.redis-ready
FIO_READY := .venv/.fio-ready
NODE_READY := tests/clients/node_modules/.ready

# A checkout that was copied or moved brings an environment that belongs to the old place.
ifneq ($(shell cat .venv/.place 2>/dev/null),$(CURDIR))
.PHONY: $(PYTHON_READY)
endif

.PHONY: help
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: setup
setup: $(PYTHON_READY) $(REDIS_READY) $(if $(wildcard tests/clients/package.json),$(NODE_READY))  ## install everything

$(PYTHON_READY): pyproject.toml constraints.txt scripts/setup-python.sh $(wildcard setup.py)
	@PYTHON='$(PYTHON)' scripts/setup-python.sh
	@touch $@

# The tests compare with a real Redis; the package's own service is not started.
$(REDIS_READY): $(PYTHON_READY)
	@command -v redis-server >/dev/null || scripts/install-debian.sh redis-server
	@touch $@

# The benchmarks compare file tiers with what it gets out of the same disk.
$(FIO_READY): $(PYTHON_READY)
	@command -v fio >/dev/null || scripts/install-debian.sh fio
	@touch $@

$(NODE_READY): $(wildcard tests/clients/package*.json) scripts/setup-node.sh
	@scripts/setup-node.sh
	@mkdir -p $(@D) && touch $@

.PHONY: demo
demo: $(PYTHON_READY)  ## run the main job: an inverted index over real files
	@.venv/bin/pocketkv demo $(DEMO_ARGS)

.PHONY: test
test: setup lint types contracts pytest test-compiled  ## check everything

.PHONY: lint
lint: $(PYTHON_READY)  ## ruff: rules and format
	$(RUN) ruff check
	$(RUN) ruff format --check

.PHONY: types
types: $(PYTHON_READY)  ## mypy --strict
	$(RUN) mypy $(CODE)

.PHONY: contracts
contracts: $(PYTHON_READY)  ## import-linter: who may import whom
	.venv/bin/lint-imports --no-logo

.PHONY: pytest
pytest: setup  ## the tests alone; PYTEST_ARGS="-k word"
	@scripts/run-pytest.sh .venv/bin/python $(IN_PARALLEL) $(PYTEST_ARGS)

# A copy of this tree with the hot path compiled. It is a copy, so that nothing compiled lies beside
# what is being edited.
COMPILED := build/compiled
COMPILED_PYTHON := ../../.venv/bin/python
IN_COMPILED = cd $(COMPILED) && PYTHONPATH=$$PWD POCKETKV_TESTS=compiled
# All that the hot path can break: protocol, limits, fuzzing, back-pressure, fairness, commands, and
# servers in processes of their own.
HOT_PATH_TESTS := tests/compiled tests/resp tests/engine tests/oracle tests/serving tests/router \
  $(if $(wildcard tests/tiers/*.py),tests/tiers --ignore tests/tiers/s3)

.PHONY: compiled
compiled: $(PYTHON_READY)  ## build the compiled hot path, in a copy
	@.venv/bin/python scripts/copy_tree.py $(COMPILED)
	cd $(COMPILED) && POCKETKV_COMPILE=require ../../.venv/bin/python setup.py -q build_ext --inplace --parallel 2

.PHONY: test-compiled
test-compiled: setup compiled  ## the tests of the hot path, on the compiled one
	$(IN_COMPILED) scripts/run-pytest.sh $(COMPILED_PYTHON) $(IN_PARALLEL) $(HOT_PATH_TESTS) $(PYTEST_ARGS)

.PHONY: test-asan
test-asan: setup  ## the same with AddressSanitizer: some minutes, not part of `make test`
	scripts/test-asan.sh $(HOT_PATH_TESTS) $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: compiled  ## fuzz the compiled codec for ten minutes; FUZZ_ARGS="--seconds 60 --seed 7"
	$(IN_COMPILED) $(COMPILED_PYTHON) -m tests.resp.fuzz_parser $(FUZZ_ARGS)
	$(IN_COMPILED) $(COMPILED_PYTHON) -m tests.compiled.fuzz_frames $(FUZZ_ARGS)

.PHONY: chaos
chaos: setup  ## kill, halt, add and drain under load, for ten minutes; CHAOS_ARGS="--seconds 60 --seed 7"
	$(RUN) tests.chaos $(CHAOS_ARGS)

.PHONY: test-slow
test-slow: setup  ## the tests that take minutes or gigabytes
	$(RUN) pytest -m slow $(PYTEST_ARGS)

.PHONY: format
format: $(PYTHON_READY)  ## mend what ruff can mend
	$(RUN) ruff check --fix
	$(RUN) ruff format

.PHONY: bench
bench: setup $(FIO_READY) compiled  ## all benchmarks, with a real Redis beside: a quarter of an hour; BENCH_ARGS="..."
	$(IN_COMPILED) $(COMPILED_PYTHON) -m benchmarks --json $(CURDIR)/build/bench.json $(BENCH_DOCS) $(BENCH_ARGS)

.PHONY: bench-quick
bench-quick: setup compiled  ## a minute's worth of the benchmarks
	$(IN_COMPILED) $(COMPILED_PYTHON) -m benchmarks --quick --json $(CURDIR)/build/bench-quick.json $(BENCH_ARGS)

.PHONY: manifests
manifests: $(PYTHON_READY)  ## write deploy/kubectl anew from the Helm chart
	$(RUN) tests.kubernetes.manifests

.PHONY: commands
commands: $(PYTHON_READY)  ## write docs/commands.md anew from the records of the commands
	.venv/bin/python scripts/command_docs.py

.PHONY: pins
pins: $(PYTHON_READY)  ## write constraints.txt anew; PINS_ARGS=--upgrade for newer versions
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras \
	  --custom-compile-command 'make pins' $(PINS_ARGS) pyproject.toml --output-file constraints.txt

.PHONY: clean
clean:  ## remove all that was made here
	rm -rf .venv build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
	  .ruff_cache .coverage htmlcov tests/clients/node_modules
	find pocketkv tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
