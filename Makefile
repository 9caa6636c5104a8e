# make serve: everything from nothing to a running server. make test: everything the project promises.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := handlers/mnist

.PHONY: setup serve test lint format build clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

model_store/mnist.mar: $(VENV)/.installed $(DATA)/mnist.py $(DATA)/mnist_handler.py $(DATA)/mnist_cnn.pt
	mkdir -p model_store
	$(BIN)/torchserve-lite archive --force --model-name mnist --version 1.0 --model-file $(DATA)/mnist.py \
		--serialized-file $(DATA)/mnist_cnn.pt --handler $(DATA)/mnist_handler.py --export-path model_store

serve: model_store/mnist.mar
	$(BIN)/torchserve-lite start --ts-config config.properties

test: lint model_store/mnist.mar
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: $(VENV)/.installed
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) model_store/*.mar dist build
