# Each target is one command; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: docs help serve test test-slow check format compat compat-vllm bench-cpu bench-policies bench-http clean bench-workers

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/.serve: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	$(BIN)/python -m engine.native.build
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	$(BIN)/python -m engine.native.build
	@# Torch for CUDA brings its own; elsewhere Triton's interpreter runs the GPU kernels' tests, where there is a wheel.
	@$(BIN)/python -c "import triton" 2>/dev/null || $(BIN)/pip install --quiet "triton==3.6.*" || true
	@touch $@ $(VENV)/.serve

serve: $(VENV)/.serve ## start the server on 127.0.0.1:8000 with the demo model; ARGS="--model DIR --port 8123"
	$(BIN)/oai-server serve $(ARGS)

test: $(VENV)/.dev ## the test suite: no GPU, no network, a process for each of up to 4 cores; ARGS="-n 0": in one process
	$(BIN)/python -m pytest -m "not slow and not gpu" -n auto --maxprocesses 4 --dist worksteal $(ARGS)

test-slow: $(VENV)/.dev ## soak, fault and simulation suites that take long
	$(BIN)/python -m pytest -m "slow and not gpu" --timeout=3600 $(ARGS)

check: $(VENV)/.dev ## format, lint, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

$(VENV)/.compat: $(VENV)/.dev
	$(BIN)/pip install --quiet --editable ".[compat]"
	@touch $@

compat: $(VENV)/.compat ## the official clients against this server with the demo model
	$(BIN)/python -m compat_tests.run $(ARGS)

compat-vllm: $(VENV)/.compat ## the same requests to vLLM's CPU build beside it, in an environment of its own
	$(BIN)/python -m compat_tests.run --vllm $(ARGS)

format: $(VENV)/.dev ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-cpu: $(VENV)/.dev ## ours against transformers' generate on CPU (random 0.5B checkpoint); ARGS="--rounds 5"
	$(BIN)/python -m benchmarks.cpu_decode $(ARGS)

clean: ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

docs: $(VENV)/.serve ## write docs/settings.md from the settings table
	$(BIN)/oai-server settings > docs/settings.md

bench-http: $(VENV)/.dev ## the HTTP layer alone: SSE chunks and short requests a second and core, against FastAPI
	$(BIN)/python -m benchmarks.http_layer $(ARGS)

bench-workers: $(VENV)/.dev ## several HTTP processes before one engine that emits as fast as it can
	$(BIN)/python -m benchmarks.api_workers $(ARGS)

bench-policies: $(VENV)/.serve ## the three scheduling policies on one mixed workload
	$(BIN)/python -m benchmarks.policies $(ARGS)
