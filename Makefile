# Every target works on a fresh clone of a bare machine: it makes .venv and installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin
# One thread a process: the test runner already uses every core.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

.DEFAULT_GOAL := help
.PHONY: help install wheel run federation compose test test-slow screenshots docs test-wheel test-compose test-edge trials audit fuzz
.PHONY: lint format keys lock bench peers results evidence clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: .venv/.installed ## Make .venv and install everything (a few minutes, once).

.venv/.installed: pyproject.toml locks/develop.txt
	@echo "installing into .venv (a few minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet torch==2.13.0
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r locks/develop.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: install ## Run the main job: HeteroFL on digits, 20 clients in five tiers. More: make run ARGS="--run-config '...'".
	@$(BIN)/flotilla run $(ARGS)

federation: install ## The same job on five SuperNodes as processes of this machine, over TLS with a key per node (docs/deploy.md).
	@$(BIN)/flotilla federation --keys keys $(ARGS)

compose: install ## Bring docker-compose.yml up: keys, images, SuperLink, five SuperNodes; says how to run on it.
	@docker compose build
	@docker compose run --rm keys
	@docker compose up -d --wait superlink
	@$(BIN)/flotilla register keys
	@docker compose up -d --wait
	@$(BIN)/flotilla connect compose --run-config 'num-clients=5 tier-assignment="node"'

wheel: install ## Build dist/flotilla-*.whl and the sdist: one name to import, the command, its app.
	@$(BIN)/python -m build --no-isolation --outdir dist .

test: install ## Run the tests (minutes), through real Flower processes too.
	@$(TEST) -m "not slow and not compose and not wheel and not peers"

test-slow: install ## Run the tests that take longer; published data sets from FLOTILLA_DATA if they are there.
	@$(TEST) -m "slow and not compose and not wheel and not peers"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m "wheel and slow" tests/wheel

screenshots: install ## Look at report and comparison in Chromium (Debian: chromium), as wide as a desktop and a phone; docs/screenshots/.
	@$(BIN)/python -c "import playwright" 2>/dev/null || $(BIN)/python -m pip install --quiet "playwright>=1.49,<2"
	@FLOTILLA_SCREENSHOTS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/pages $(ARGS)

# MkDocs has an environment of its own: nothing that trains needs it, and it needs nothing that trains.
docs: install .venv-docs/.installed ## Build the documents as a site, dist/site/index.html; a page for every method, warnings are errors.
	@OMP_NUM_THREADS=1 $(BIN)/python -m handbook dist/handbook
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict -f dist/handbook/mkdocs.yml
	@OMP_NUM_THREADS=1 FLOTILLA_SITE=dist/site $(BIN)/python -m pytest -q -p no:cacheprovider tests/handbook/test_site.py
	@echo "dist/site/index.html"

.venv-docs/.installed: locks/docs.txt
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --no-deps --require-hashes -r locks/docs.txt
	@touch $@

test-wheel: install ## Build a wheel, install it in an environment that has nothing else, use it from another directory.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m "wheel and not slow" tests/wheel

test-compose: install ## What needs a Docker engine: the compose file as it is, a job on it; a device without torch. Else skipped.
	@$(BIN)/python -m pytest -rs -s -m compose tests/e2e/test_device.py tests/e2e/test_compose.py

test-edge: install ## Run the commands of docs/edge.md on a clean Debian 12 with systemd, up to a run; skipped where no Docker engine is.
	@edge/try.sh $(ARGS)

trials: install ## Kill parts of a deployed federation with SIGKILL at random moments: make trials ARGS=50.
	@$(BIN)/python -m tests.faults.trials $(ARGS)

audit: install ## A bill of materials (CycloneDX) of what is installed, and its known vulnerabilities (asks PyPI).
	@test -x .venv-audit/bin/cyclonedx-py || { $(PYTHON) -m venv .venv-audit && \
	  .venv-audit/bin/pip install --quiet "pip-audit>=2.9,<3" "cyclonedx-bom>=7,<8"; }
	@mkdir -p dist && .venv-audit/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml \
	  --output-format JSON --output-file dist/flotilla.cdx.json && echo "dist/flotilla.cdx.json"
	@$(BIN)/python -m pip freeze --exclude-editable --local | sed 's/+cpu$$//; / @ /d' > .venv-audit/installed.txt
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r .venv-audit/installed.txt $(ARGS)

fuzz: install ## A million mutated frames of every codec and messages of every kind, in bounded memory (minutes). Fewer: make fuzz ARGS="10000".
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.protocol.fuzz $(ARGS)

lint: install ## Lint, format check, types, import contracts.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install ## Format the code.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

keys: install ## Write pyproject's defaults and the tables of docs/configuration.md from the settings.
	@$(BIN)/python -m server_app.config --write

# CUDA's packages, which PyPI's torch for Linux wants, and torch itself are left out: which torch is the machine's choice.
LOCK = $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-emit-package torch --excludes locks/excluded.txt --custom-compile-command "make lock" $(ARGS)

lock: install ## Write locks/ from pyproject.toml; what is locked stays where it can: make lock ARGS=--upgrade.
	@$(LOCK) pyproject.toml --extra dev -o locks/develop.txt
	@sed 's/flwr\[simulation\]/flwr/' pyproject.toml > .venv/pyproject.toml
	@$(LOCK) .venv/pyproject.toml -c locks/develop.txt -o locks/device.txt
	@sed '/^dependencies = \[/,/^\]/d' pyproject.toml > .venv/pyproject.toml
	@$(LOCK) .venv/pyproject.toml --extra docs -o locks/docs.txt

bench: install ## Measure speed and memory, as ratios within one run: make bench ARGS="averaging pfl"; the rest: python -m benchmarks.
	@$(BIN)/python -m benchmarks bench $(ARGS)

peers: install ## Other people's libraries beside ours, each in an environment of its own (made once: 15 minutes, 8 GB): docs/peers.md.
	@$(BIN)/python -m benchmarks peers $(ARGS)

results: install ## Make a table of docs/results.md (minutes to hours; Fashion-MNIST under FLOTILLA_DATA): make results ARGS="depth --write".
	@$(BIN)/python -m benchmarks experiments $(or $(ARGS),width --write)

evidence: install ## Make the tables of docs/evidence.md (0.7 hours of a core; data under FLOTILLA_DATA); stopped, the same command goes on.
	@$(BIN)/python -m benchmarks experiments evidence $(or $(ARGS),--write)

clean: ## Remove .venv and caches; runs/ stays.
	@rm -rf .venv .venv-peers .venv-audit .venv-docs .venv-wheel .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
