# Two commands do all the set-up: `make run` and `make test`. Both prepare .venv first.
PYTHON ?= python3
# Each starts servers of its own; the tests wait more than they compute.
TEST_WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup run demo test test-bench test-cluster model fuzz chaos check audit format bench bench-compare lock wheel clean

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
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not bench"

# Quick runs of the benchmarks that `make test` leaves out: they would take a quarter of its time.
test-bench: setup
	$(BIN)/python -m pytest -n 1 -m bench tests/bench_program

# What runs on any Redis, on a Redis Cluster of three nodes instead; its own tests are part of `make test`.
test-cluster: setup
	TEST_REDIS=cluster $(BIN)/python -m pytest -n $(TEST_WORKERS) tests/streams tests/workers tests/client \
		tests/e2e/test_processes_apart.py tests/e2e/test_cluster_flow.py

# The broker as a state machine, with other examples each time. EXAMPLES=2000 by default: a quarter of an hour.
EXAMPLES ?= 2000
model: setup
	MODEL_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -n0 tests/model

# Requests generated from the contract, from a random seed, against a whole broker. MINUTES=10 by default.
MINUTES ?= 10
fuzz: setup
	$(BIN)/python tests/e2e/generated.py --minutes $(MINUTES)

# The whole chaos run, about 40 minutes alone on two CPUs: make chaos SEED=7 MINUTES=32 (of faults). See docs/chaos.md.
CHAOS_OUT ?= build/chaos
chaos: setup
	PYTHONPATH=.:tests $(BIN)/python -m chaos --full $(if $(SEED),--seed $(SEED)) --out $(CHAOS_OUT) \
		--minutes $(if $(filter file,$(origin MINUTES)),32,$(MINUTES))

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Published advisories against exactly what is locked. Exit code 3 (make: 2): it could not be asked here.
audit:
	$(PYTHON) .ci/audit

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# All of tests/bench in turn, or some: make bench ONLY="end_to_end routing". QUICK=1 shows in seconds that they work.
OUT ?= build/bench
bench: setup
	PYTHONPATH=tests $(BIN)/python -m bench $(ONLY) $(if $(QUICK),--quick) --out $(OUT)

# This state of the code beside an older one, in turns, as ratios: make bench-compare BASE=<commit>
ROUNDS ?= 3
MESSAGES ?= 20000
bench-compare: setup
	@test -n "$(BASE)" || { echo "which commit? make bench-compare BASE=<commit>"; exit 2; }
	PYTHONPATH=tests $(BIN)/python -m bench.compare $(BASE) --rounds $(ROUNDS) --messages $(MESSAGES)

# Pins every dependency with its hashes; the file names no registry.
lock:
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --group dev pyproject.toml -o requirements.lock

wheel: setup
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
