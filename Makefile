# Two commands do all the set-up: `make run` and `make test`. Both prepare .venv first.
PYTHON ?= python3
# Each starts servers of its own; the tests wait more than they compute.
TEST_WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup run demo test fuzz check format bench lock wheel clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup
	$(BIN)/agent-broker up

demo: setup
	$(BIN)/agent-broker demo

test: setup
	$(BIN)/python -m pytest -n $(TEST_WORKERS)

# Requests generated from the contract, from a random seed, against a whole broker. MINUTES=10 by default.
MINUTES ?= 10
fuzz: setup
	$(BIN)/python tests/e2e/generated.py --minutes $(MINUTES)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/agent-broker bench --fresh

# Pins every dependency with its hashes; the file names no registry.
lock:
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --group dev pyproject.toml -o requirements.lock

wheel: setup
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
