# Every target works on a fresh clone of a bare machine: it makes .venv and installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin
# One thread a process: the test runner already uses every core.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

.DEFAULT_GOAL := help
.PHONY: help install run test test-slow fuzz lint format bench results clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: .venv/.installed ## Make .venv and install everything (a few minutes, once).

.venv/.installed: pyproject.toml
	@echo "installing into .venv (a few minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet torch==2.13.0
	@$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

run: install ## Run the main job: HeteroFL on digits, 20 clients in five tiers. More: make run ARGS="--run-config '...'".
	@$(BIN)/flotilla run $(ARGS)

test: install ## Run the tests (minutes), through real Flower processes too.
	@$(TEST) -m "not slow"

test-slow: install ## Run the tests that take longer; published data sets from FLOTILLA_DATA if they are there.
	@$(TEST) -m slow

fuzz: install ## Decode a million mutated frames of every codec, in bounded memory (minutes). Fewer: make fuzz ARGS="10000".
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.protocol.fuzz $(ARGS)

lint: install ## Lint, format check, types, import contracts.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install ## Format the code.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: install ## Measure speed and memory, as ratios within one run.
	@$(BIN)/python -m benchmarks $(ARGS)

results: install ## Make the tables of docs/results.md (hours; needs Fashion-MNIST under FLOTILLA_DATA).
	@$(BIN)/python -m benchmarks.results $(ARGS)

clean: ## Remove .venv and caches; runs/ stays.
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
