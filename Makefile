# make serve: everything from nothing to a running server. make test: everything the project promises.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := handlers/mnist
PROTOS := $(shell find protos -name '*.proto')

PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: setup lock upgrade clients upgrade-clients serve test lint docs format build verify-image clean

setup: $(VENV)/.installed

# Exactly what is locked, each file checked against its hash. torch comes in a step of its own (see its file), and with it
# what its build needs and the lock does not have: nothing for the CPU build, NVIDIA's libraries for the CUDA build.
$(VENV)/.installed: pyproject.toml requirements/locked.txt requirements/torch.txt hatch_build.py $(PROTOS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes --no-deps -r requirements/locked.txt
	$(PIP) install -r requirements/torch.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	$(PIP) check
	touch $@

# lock: for a dependency that was added or removed; the other versions stay. upgrade: everything to the newest version
# that pyproject.toml allows. Both write one file for all supported versions of Python.
LOCK := $(BIN)/uv --quiet pip compile pyproject.toml --extra dev --universal --generate-hashes \
	--no-emit-package torch -c requirements/torch.txt --annotation-style line \
	--custom-compile-command 'make upgrade' -o requirements/locked.txt

# What images are made of, layer by layer, in the same versions.
IMAGE_PARTS := handlers server build
LOCK_IMAGE = for part in $(IMAGE_PARTS); do \
	$(BIN)/uv --quiet pip compile docker/requirements/$$part.in --universal --python-version 3.11 --generate-hashes \
		--no-emit-package torch -c requirements/locked.txt -c requirements/torch.txt --annotation-style line \
		--custom-compile-command 'make lock' -o docker/requirements/$$part.txt || exit 1; done

lock:
	test -x $(BIN)/uv || $(MAKE) setup
	$(LOCK)
	$(LOCK_IMAGE)

upgrade:
	test -x $(BIN)/uv || $(MAKE) setup
	$(LOCK) --upgrade
	$(LOCK_IMAGE)

# KServe's SDK and tritonclient for the tests that run them, in an environment of their own: their protobuf is not ours.
CLIENTS := .venv-clients

clients: $(CLIENTS)/.installed

$(CLIENTS)/.installed: requirements/clients.txt
	test -x $(BIN)/uv || $(MAKE) setup
	$(BIN)/uv --quiet venv --clear --python $(BIN)/python $(CLIENTS)
	$(BIN)/uv --quiet pip install --python $(CLIENTS)/bin/python --require-hashes -r requirements/clients.txt
	touch $@

upgrade-clients:
	$(BIN)/uv --quiet pip compile requirements/clients.in --universal --python-version 3.11 --generate-hashes \
		--annotation-style line --custom-compile-command 'make upgrade-clients' -o requirements/clients.txt

model_store/mnist.mar: $(VENV)/.installed $(DATA)/mnist.py $(DATA)/mnist_handler.py $(DATA)/mnist_cnn.pt \
		$(DATA)/model-config.yaml
	mkdir -p model_store
	$(BIN)/torchserve-lite archive --force --model-name mnist --version 1.0 --model-file $(DATA)/mnist.py \
		--serialized-file $(DATA)/mnist_cnn.pt --handler $(DATA)/mnist_handler.py \
		--config-file $(DATA)/model-config.yaml --export-path model_store

serve: model_store/mnist.mar
	$(BIN)/torchserve-lite start --ts-config config.properties

# Tests wait more than they compute, so two processes take them from one list; then those that have to be alone.
TESTS_AT_ONCE ?= 2

test: lint model_store/mnist.mar
	$(BIN)/python -m pytest -m 'not alone' -n $(TESTS_AT_ONCE) --dist worksteal --cov=torchserve_lite --cov-report=
	$(BIN)/python -m pytest -m alone --cov=torchserve_lite --cov-report= --cov-append
	@echo "lines covered, of what runs in the tests' own process: $$($(BIN)/coverage report --format=total) %"

# The documentation as a site. Material's word on its end of support stands in docs/dependencies.md, and not in each build.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: $(VENV)/.installed
	$(MKDOCS)
	@echo "The documentation is in site/index.html."

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS)

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: $(VENV)/.installed
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

# Builds the image and runs it as KServe does. Exit code 2: a tool for that is missing, and it has said which one.
verify-image:
	$(PYTHON) docker/verify_image.py || { code=$$?; test $$code -eq 2 && echo "*** THE IMAGE WAS NOT BUILT AND NOT RUN ***"; }

clean:
	rm -rf $(VENV) $(CLIENTS) model_store/*.mar dist build
