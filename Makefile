# Every target sets up what it needs: the first one makes a virtual environment in .venv from constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-fast faults check format clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(READY) ## the main job on generated data, without network (about 5 minutes on 2 cores): runs/demo/report.html
	$(BIN)/clfa demo --out runs/demo

test: $(READY) ## all tests that need no GPU
	$(BIN)/python -m pytest -m "not gpu" -n 2 -rs

test-fast: $(READY) ## the tests without the slow ones
	$(BIN)/python -m pytest -m "not gpu and not slow" -n 2 -rs

faults: $(READY) ## processes killed at 200 random moments and more, 1,000 corruptions (an hour or more): runs/faults.xml
	CLFA_KILLS=200 CLFA_FAULTS=1000 $(BIN)/python -m pytest -n 2 --junitxml=runs/faults.xml tests/training/test_kill.py \
		tests/test_killed.py tests/data/test_shards.py tests/training/test_checkpoint.py tests/serving/test_stopped.py tests/model/test_sealed.py

check: $(READY) ## format, lint, types
	$(BIN)/ruff format --check src tests docs benchmarks examples
	$(BIN)/ruff check src tests docs benchmarks examples
	$(BIN)/mypy

format: $(READY) ## format and fix
	$(BIN)/ruff format src tests docs benchmarks examples
	$(BIN)/ruff check --fix src tests docs benchmarks examples

clean: ## remove the virtual environment and the demo
	rm -rf $(VENV) runs/demo

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
