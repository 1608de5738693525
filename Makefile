# Everything in one environment, .venv, made on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test slow check clean

quickstart: .venv/ready
	$(BIN)/refine run configs/quickstart.yaml

test: .venv/ready
	$(BIN)/python -m pytest -m "not slow" -n auto

slow: .venv/ready
	$(BIN)/python -m pytest -m slow -n auto

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf .venv runs
