# Trueline's errands. A first-time user needs python3 (3.10 or newer) with venv, and make:
#
#   make demo     aligns the embedded helpdesk model, start to end, and shows what came of it
#   make demo-dpo, make demo-constitution     the same with feedback from a judge that reads a constitution
#   make test     every test that takes seconds
#
# The first call installs into .venv, which takes minutes and a network; later ones start at once. Torch comes from the
# package index that pip is configured with; on Linux that build carries CUDA and is large. PyTorch has an index of its
# own for CPU builds (its "Get started" page names it):
#
#   make demo TORCH_INDEX=https://...
#
# Benchmarks take options in ARGS: make bench ARGS="--help".

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --constraint constraints.txt

.PHONY: demo demo-dpo demo-constitution watch test test-slow lint protos bench bench-peer seeds chaos \
	cluster-sim clean

demo: $(VENV)/installed
	@$(RUN) -m orchestrator demo $(ARGS)

# The demo with a local Prometheus (Debian's) that scrapes it and evaluates the alerts; says what is missing.
watch: $(VENV)/installed
	@$(RUN) -m k8s.monitoring.watch $(ARGS)

# The same world by iterative DPO, and by critique, revision and PPO on what a judge prefers.
demo-dpo demo-constitution: demo-%: $(VENV)/installed
	@$(RUN) -m orchestrator demo $* $(ARGS)

test: $(VENV)/installed-dev
	@$(RUN) -m pytest -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/installed-dev
	@$(RUN) -m pytest -m slow $(ARGS)

lint: $(VENV)/installed-dev
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy
	@cd protos && ../$(VENV)/bin/buf lint

# Refuses a breaking change; then writes the generated modules and the image that the next change is held against.
protos: $(VENV)/installed-dev
	@cd protos && ../$(VENV)/bin/buf lint && ../$(VENV)/bin/buf breaking --against trueline.binpb
	@$(RUN) protos/generate.py --environment .venv-protos
	@cd protos && ../$(VENV)/bin/buf build --exclude-source-info -o trueline.binpb

bench: $(VENV)/installed-dev
	@$(RUN) -m benchmarks.throughput $(ARGS)

bench-peer: $(VENV)/installed-dev
	@$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL=$(TORCH_INDEX)) $(RUN) -m benchmarks.peer $(ARGS)

seeds: $(VENV)/installed-dev
	@$(RUN) -m benchmarks.seeds $(ARGS)

# 500 faults into one run; ARGS=--quick is 41 of them, ARGS=--postgres keeps the ledger in a PostgreSQL that crashes.
chaos: $(VENV)/installed-dev
	@$(RUN) -m benchmarks.chaos $(ARGS)

# The manifests as processes in network namespaces, with deaths; takes root. ARGS=--quick is a small world.
cluster-sim: $(VENV)/installed-dev
	@$(RUN) -m benchmarks.cluster $(ARGS)

clean:
	rm -rf $(VENV) .venv-protos .venv-peer build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11" if sys.version_info < (3, 10) else 0)'
	@echo "==> creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "==> installing services and orchestrator into $(VENV) (torch is the large one; minutes on a first run)"
	@$(INSTALL) --editable '.[services,orchestrator]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "==> installing what tests and benchmarks need"
	@$(INSTALL) --editable '.[services,orchestrator,dev]'
	@touch $@
