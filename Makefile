# Two commands on a fresh machine: `make demo` and `make test`. Everything runs in .venv, installed through constraints.txt.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
OLDER_MEGATRON := $(VENV)/megatron-core-0.12.1

.PHONY: demo test test-distributed lint aot site bench example-toys example-beauty example-market clean

demo: $(READY)
	$(BIN)/recrl demo

# One thread a worker: with two workers on two cores, torch's own threads would only stand in each other's way.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore tests/distributed

# Runs on 2 and 4 processes that meet through gloo, with the newest Megatron-core and with the oldest that is supported.
test-distributed: $(READY) $(OLDER_MEGATRON)
	RECRL_OLDER_MEGATRON=$(CURDIR)/$(OLDER_MEGATRON) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/distributed

$(OLDER_MEGATRON): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $@ megatron-core==0.12.1

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# TRL is a peer of the comparison, not of the product: it is installed for this alone.
bench: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/recrl bench engine
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# Compiles every Triton kernel for CUDA without a device; fails on a spill, or where kernels/AOT.md is out of date.
aot: $(READY)
	cd tests && ../$(BIN)/python -m recrl.kernels.aot --check

# The pages of docs/ in site/. A broken link fails; not with --quiet, which hides warnings from --strict, too.
site: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

example-toys: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/toys/run.sh toys

example-beauty: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/toys/run.sh beauty

example-market: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/market/run.sh

# torch first: what needs it then takes this very version.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
