PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check bench format clean

run: $(VENV)/.light  ## sample 16 pictures from the shipped model, without torch
	$(BIN)/ddpm-run exported/unet.onnx --n 16 --steps 1000 --out samples.png
	@echo "The grid lies in $(CURDIR)/samples.png"

test: $(VENV)/.dev  ## all tests
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## format, lint, strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## measure again what docs/performance.md says
	$(BIN)/python -m benchmarks --write docs/performance.md

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.light: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[cpu]'
	touch $@

$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[cpu,dev]'
	touch $@ $(VENV)/.light

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
