PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: docs run test test-all test-long check bench examples format clean

run: $(VENV)/.light  ## sample 16 pictures from the shipped model, without torch
	@$(BIN)/ddpm-run exported/unet.onnx --out samples.png
	@echo "The grid is $(CURDIR)/samples.png. To go on:"
	@echo "  $(BIN)/ddpm-run exported/unet.onnx --each-label --out classes.png          # a row for each class"
	@echo "  $(BIN)/ddpm-run exported/unet.onnx --n 16 --steps 1000 --out slow.png      # all 1000 steps, minutes"
	@echo "  $(BIN)/ddpm-run exported/unet.onnx --n 9 --steps 50 --out denoising.gif    # on the way from noise"
	@echo "  $(BIN)/ddpm-edit fill exported/unet.onnx docs/given/pictures/00.png --mask docs/given/right-half.png --n 8 --out filled.png"
	@echo "  $(BIN)/ddpm-run --help                                                     # everything else"

TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal  # two processes, one core each

test: $(VENV)/.dev examples/web/node_modules  ## every promise once; what needs a tool that is missing is skipped, by name
	$(TESTS) -m "not long"

test-long: $(VENV)/.dev examples/web/node_modules  ## what `make test` leaves out
	$(TESTS) -m long

test-all: $(VENV)/.dev examples/web/node_modules  ## all tests
	$(TESTS)

check: $(VENV)/.dev  ## format, lint, strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## measure again what docs/benchmarks-step.md says
	$(BIN)/python -m benchmarks --write docs/benchmarks-step.md

docs: $(VENV)/.docs build/mathjax/package.json  ## build the site in build/site; warnings and broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

examples: $(VENV)/.dev examples/web/node_modules  ## build and run the sampler in every language there is a toolchain for
	$(BIN)/python -m examples

build/mathjax/package.json:  # draws the formulas of the site
	mkdir -p build/mathjax
	npm install --prefix build/mathjax --ignore-scripts --no-audit --no-fund --loglevel=error "mathjax@>=3 <4"

examples/web/node_modules: examples/web/package.json  ## what the web example needs of npm, none of its scripts run
	@if command -v npm > /dev/null; then \
	  npm install --prefix examples/web --ignore-scripts --no-package-lock --no-audit --no-fund --loglevel=error \
	  && touch $@ || echo "npm could not install: the web example is left out"; \
	else echo "no npm: the web example is left out (apt install npm)"; fi

.venv-oldest:  ## the oldest ONNX Runtime that files are promised to run on
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet 'onnxruntime==1.16.3' 'numpy<2'

.venv-serving:  ## a server of the v2 protocol and its client, whose packages want another protobuf than onnx
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet 'mlserver>=1.6' 'tritonclient[grpc,http]>=2.50' onnxruntime

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

$(VENV)/.docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest .venv-serving examples/web/node_modules examples/cpp/build examples/ios/.build build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
