PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-fast test-jax lint fuzz bench synthetic-cache clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: $(READY)  ## Compare all shipped recipes on synthetic radiographs
	$(BIN)/cxr-sklearn compare --folds 3 --out runs/demo

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test-fast: $(READY)  ## Tests that need neither Keras nor a browser
	$(BIN)/pytest -m "not keras and not slow and not browser"

test: lint test-jax  ## Everything: ruff, mypy, all tests
	$(BIN)/pytest

test-jax: $(READY)  ## Some of the tests that need Keras, on JAX
	KERAS_BACKEND=jax $(BIN)/pytest -q tests/test_embedder.py tests/classifiers/test_contract.py -m keras \
		-k "those_of_the_network or embeds_each_image_once or (seed_gives_the_same_predictions and not process)"

fuzz: $(READY)  ## Damage 20,000 image files and see that each is read or refused
	$(BIN)/python -m tests.fuzz --files 20000

bench: $(READY)  ## Time everything against its rivals and write benchmarks/results.md
	$(BIN)/python benchmarks/run.py

synthetic-cache: $(READY)  ## Draw and embed the images behind cache/synthetic again
	$(BIN)/python cache/synthetic/make.py

clean:  ## Remove the virtual environment and all runs
	rm -rf $(VENV) runs dist
