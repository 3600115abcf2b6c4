# Two commands do everything on a fresh machine: `make train` and `make test`. `make help` lists the others.
# Options go in ARGS, ranks in NPROC:  make train NPROC=4 ARGS="model=mlp batch.size=512"

PYTHON ?= python3
ARGS ?=
NPROC ?=
# Not from the environment, which may have these names for something else.
RUNS :=
NAME :=
COMMA := ,
SPACE := $(subst ,, )

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Test files are shared out over so many processes, each file whole.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# What `make train` trains on where ARGS name no other data set.
DEFAULT_DATA := $(if $(or $(findstring data.path=,$(ARGS)),$(findstring --help,$(ARGS))),,data/default/dataset.json)
# `make evaluate` without a run of its own trains one first.
DEFAULT_RUN := $(if $(or $(findstring run=,$(ARGS)),$(findstring --help,$(ARGS))),,runs/latest/config.yaml)

export NPROC
.DEFAULT_GOAL := help
.PHONY: help setup prepare-data train evaluate predict export card plan inspect sweep rate-test batch-finder coord-check
.PHONY: report compare dashboard sync study studies verify repair test check fix bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'
	@printf '\nOptions: ARGS="name=value ..." (make train ARGS=--help lists them), NPROC=ranks\n'

setup: $(VENV)/runtime.stamp ## make .venv with everything that training needs

prepare-data: $(VENV)/runtime.stamp ## make a data set of tar shards; by default CIFAR-10 into data/default
	@$(BIN)/python -m data_prep $(ARGS)

train: $(VENV)/runtime.stamp $(DEFAULT_DATA) ## train and evaluate; one rank a GPU, or two on the CPU
	@$(BIN)/python -m pipeline.launch pipeline.train $(ARGS)

evaluate: $(VENV)/runtime.stamp $(DEFAULT_RUN) ## evaluate a run, by default the latest
	@$(BIN)/python -m pipeline.launch pipeline.evaluate $(ARGS)

predict: $(VENV)/runtime.stamp $(DEFAULT_RUN) ## say what images show: ARGS="images=[photos]"
	@$(BIN)/python -m pipeline.predict $(ARGS)

export: $(VENV)/runtime.stamp $(DEFAULT_RUN) ## a run's model as safetensors, ONNX or torch.export: ARGS="out=exports/mine"
	@$(BIN)/python -m pipeline.export $(ARGS)

card: $(VENV)/runtime.stamp $(DEFAULT_RUN) ## a page about a run's model
	@$(BIN)/python -m pipeline.model_card $(ARGS)

sweep: $(VENV)/runtime.stamp $(DEFAULT_DATA) ## many runs, their table and plot: ARGS="optimizer.rate=0.001,0.01 seed=0,1,2"
	@$(BIN)/python -m pipeline.sweep $(ARGS)

rate-test: $(VENV)/runtime.stamp $(DEFAULT_DATA) ## find the learning rates that a model bears
	@$(BIN)/python -m pipeline.rate_test $(ARGS)

batch-finder: $(VENV)/runtime.stamp $(DEFAULT_DATA) ## find the largest batch that fits
	@$(BIN)/python -m pipeline.batch_finder $(ARGS)

coord-check: $(VENV)/runtime.stamp ## compare updates over width, without and with width transfer
	@$(BIN)/python -m pipeline.coord_check $(ARGS)

report: $(VENV)/runtime.stamp $(DEFAULT_RUN) ## a run as one page, by default the latest: ARGS="run=runs/0001"
	@$(BIN)/python -m pipeline.report $(ARGS)

compare: $(VENV)/runtime.stamp ## several runs as one page: RUNS="runs/0001 runs/0002"
	@$(BIN)/python -m pipeline.compare $(if $(strip $(RUNS)),runs=[$(subst $(SPACE),$(COMMA),$(strip $(RUNS)))]) $(ARGS)

dashboard: $(VENV)/runtime.stamp ## watch all runs on localhost, also while they train
	@$(BIN)/python -m pipeline.dashboard $(ARGS)

sync: $(VENV)/runtime.stamp ## send runs to Weights & Biases that were made without network
	@$(BIN)/python -m pipeline.sync $(ARGS)

study: $(VENV)/runtime.stamp ## measure a claim of the lecture: NAME=linear-limits
	@$(BIN)/python -m pipeline.study $(if $(NAME),name=$(NAME)) $(ARGS)

studies: $(VENV)/runtime.stamp ## measure all of them
	@$(BIN)/python -m pipeline.study $(ARGS)

plan: $(VENV)/runtime.stamp $(DEFAULT_DATA) ## say what a run would read, hold, take and cost, before it starts
	@$(BIN)/python -m pipeline.plan $(ARGS)

inspect: $(VENV)/runtime.stamp $(if $(findstring run=,$(ARGS)),,$(DEFAULT_DATA)) ## show the images and labels of any step: ARGS="run=runs/0001 step=12"
	@$(BIN)/python -m pipeline.inspect $(ARGS)

verify: $(VENV)/runtime.stamp $(if $(ARGS),,data/default/dataset.json) ## re-read a data set, by default data/default
	@$(BIN)/python -m data_prep.verify $(or $(ARGS),path=data/default)

repair: $(VENV)/runtime.stamp $(if $(ARGS),,data/default/dataset.json) ## rebuild what is damaged, by default in data/default
	@$(BIN)/python -m data_prep.repair $(or $(ARGS),path=data/default)

test: $(VENV)/dev.stamp ## run all tests
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: $(VENV)/dev.stamp ## lint, format, types and the fast tests; changes nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --diff --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow"

fix: $(VENV)/dev.stamp ## let the linter and the formatter edit the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/dev.stamp ## run the benchmarks; see benchmarks/README.md
	@$(BIN)/python -m benchmarks.loader $(ARGS)
	@$(BIN)/python -m benchmarks.train_wait
	@$(BIN)/python -m benchmarks.step_overhead
	@$(BIN)/python -m benchmarks.optimizers
	@$(BIN)/python -m benchmarks.encoded
	@$(BIN)/python -m benchmarks.remote
	@$(BIN)/python -m benchmarks.larger_than_memory
	@$(BIN)/python -m benchmarks.decode
	@$(BIN)/python -m benchmarks.prepare_limits
	@$(BIN)/python -m benchmarks.prepare_peers

clean: ## remove .venv and tools' caches; data and runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info

data/default/dataset.json: | $(VENV)/runtime.stamp
	@$(BIN)/python -m data_prep

runs/latest/config.yaml: | $(VENV)/runtime.stamp data/default/dataset.json
	@$(BIN)/python -m pipeline.launch pipeline.train

$(VENV)/runtime.stamp: pyproject.toml constraints.txt setup.py $(wildcard pipeline/native/*.[ch])
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; try make PYTHON=python3.12"; rm -rf $(VENV); exit 2; }
	@echo "installing packages into $(VENV) (torch is large; this happens once)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp
	@echo "installing test packages into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@
