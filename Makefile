# Needs only make and Python 3.10 to 3.13 with venv; everything else goes into .venv.
# A stamp in .venv says what is installed there; a change in pyproject.toml installs anew.

SHELL    := /bin/sh
VENV     := .venv
BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
PYTHON   ?=
SCENARIO ?= healthy
ARGS     ?=
N        ?= 100

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint wheel bench bench-server fuzz torture clean

help:  ## Say what there is to make
	@echo "make demo [SCENARIO=healthy|leak|epoch-leak|validation-spike|cache-fill|swap] [ARGS=--no-browser]"
	@echo "make test [ARGS='-k name']"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.demo  ## Train a real Keras CNN and watch its memory in the browser
	@exec $(BIN)/oomcast demo --scenario $(SCENARIO) $(ARGS)

test: $(VENV)/.test  ## Run all tests; the last lines say what was skipped, and why
	@OOMCAST_TEST_BROWSER="$$($(BIN)/python tools/browser.py)"; export OOMCAST_TEST_BROWSER; \
	exec $(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

test-all: $(VENV)/.base  ## Run the fast tests from the wheel on each Python 3.10 to 3.13 found here
	@exec $(BIN)/python tools/versions.py $(ARGS)

lint: $(VENV)/.lint  ## Check style, format and types
	@failed=0; \
	$(BIN)/ruff check || failed=1; \
	$(BIN)/ruff format --check || failed=1; \
	$(BIN)/mypy || failed=1; \
	exit $$failed

wheel: $(VENV)/.base  ## Build the wheel into dist/ and try it where there is no source tree
	@exec $(BIN)/python tools/check_wheel.py

bench: $(VENV)/.bench  ## Measure what the callback costs per batch
	@exec $(BIN)/python tests/benchmark/bench_callback.py $(ARGS)

bench-server: $(VENV)/.test  ## Measure the server on both engines: ARGS='--only ingest,chart,live,wal --full --json'
	@exec $(BIN)/python tests/server/bench_server.py $(ARGS)

fuzz: $(VENV)/.test  ## Send 200 000 broken messages to the server's decoders: ARGS='-n 1000000 --seed 1'
	@exec $(BIN)/python -m tests.server.fuzz $(ARGS)

torture: $(VENV)/.test  ## Kill server, agents and trainings again and again, N=100 times each, and count what is lost
	@exec $(BIN)/python -m tests.torture -n $(N) $(ARGS)

clean:  ## Remove what was made here
	rm -rf $(VENV) .venvs dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis test-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.base: tools/pick_python.sh
	@python=$$(tools/pick_python.sh "$(PYTHON)") || exit 1; \
	echo "making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV)
	@$(PIP) --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.demo: $(VENV)/.base pyproject.toml
	@echo "installing oomcast, its server and TensorFlow (a minute or two)"
	@$(PIP) -e '.[server,tensorflow]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo pyproject.toml
	@echo "installing what the tests need"
	@$(PIP) --group test --group backends -e '.[server,tensorflow,postgres]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test pyproject.toml
	@echo "installing what is compared with"
	@$(PIP) --group bench
	@touch $@

$(VENV)/.lint: $(VENV)/.test pyproject.toml
	@echo "installing the linters"
	@$(PIP) --group lint
	@touch $@
