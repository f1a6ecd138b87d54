PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-fast test-jax coverage lint docs dist-test fuzz bench zoo synthetic-cache clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: $(READY)  ## Compare the recipes on synthetic radiographs
	$(BIN)/cxr-sklearn compare --folds 3 --out runs/demo

lint: $(READY)  ## Format, style, types, spelling, and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo

test-fast: $(READY)  ## The quick tests that need neither Keras nor a browser
	$(BIN)/pytest -m "not keras and not slow and not browser"

test: lint test-jax  ## Everything: lint and all tests
	$(BIN)/pytest -n 2 --dist loadfile

test-jax: $(READY)  ## Some of the tests that need Keras, on JAX
	KERAS_BACKEND=jax $(BIN)/pytest -q tests/features/test_embedder.py tests/classifiers/test_contract.py -m keras \
		-k "those_of_the_network or embeds_each_image_once or (seed_gives_the_same_predictions and not process)"

docs: $(READY)  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist-test: $(READY)  ## Build the wheel and the source archive and use them in an empty environment
	.ci/dist-test

# Apart from `test`, which would take a third longer.
coverage: $(READY)  ## All tests, and which lines and branches they leave out
	$(BIN)/pytest -n 2 --dist loadfile --cov

fuzz: $(READY)  ## Damage 20,000 image files and see that each is read or refused
	$(BIN)/python -m tests.images.fuzz --files 20000

bench: $(READY)  ## Time everything against its rivals and write benchmarks/results.md
	$(BIN)/python benchmarks/run.py

OUT ?= runs/zoo
zoo: $(READY)  ## Train models to hand out: make zoo DATA=chest_xray WEIGHTS=VGG16.h5 OUT=zoo
	$(BIN)/python benchmarks/zoo.py "$(DATA)" --weights "$(WEIGHTS)" --out "$(OUT)" \
		$(if $(RECIPES),--recipes $(RECIPES)) $(if $(SEEDS),--seeds $(SEEDS))

synthetic-cache: $(READY)  ## Draw and embed the images behind cache/synthetic again
	$(BIN)/python cache/synthetic/make.py

clean:  ## Remove the virtual environment, all runs and what was built
	rm -rf $(VENV) runs dist site
