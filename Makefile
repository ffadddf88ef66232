# One environment in .venv serves every target; `make help` lists them.
# TORCH chooses the torch build, for machines that want another one: make demo TORCH='torch==2.13.0 --index-url ...'
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo setup quick test long lint format type docs bench dist clean

help: ## list this
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch before anything that depends on it: with it installed, nothing fetches another build
$(VENV)/torch.stamp: Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	touch $@

$(VENV)/cvft.stamp: $(VENV)/torch.stamp pyproject.toml setup.py
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/cvft.stamp
	$(BIN)/pip install --quiet -e '.[test]'
	touch $@

##@ Use it
demo: $(VENV)/cvft.stamp ## train a LoRA on real mp4 files, merge, verify, evaluate; CPU, about 2 minutes
	$(BIN)/cvft demo

##@ Change it
setup: $(VENV)/test.stamp ## make the environment with all that the tests need; every target does so by itself

# whole files to each of JOBS processes: what a file has trained serves all of its tests; three keep two cores busy, for some wait
JOBS ?= 3
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

quick: $(VENV)/test.stamp ## run the fast tests, for while you work; about 5 minutes
	$(PYTEST) -m "pure or cpu"

test: $(VENV)/test.stamp ## run the tests; about 25 minutes on 2 cores
	$(PYTEST) -m "not long"

long: $(VENV)/test.stamp ## run what `make test` leaves out: other forms of the longest jobs
	$(PYTEST) -m long

lint: $(VENV)/test.stamp ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/test.stamp ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(VENV)/test.stamp ## check types
	$(BIN)/mypy

docs: $(VENV)/test.stamp ## check generated parts of the pages, links, and names of commands and settings
	$(BIN)/python -m pytest --quiet $(wildcard tests/test_readme.py tests/test_docs*.py) tests/test_habits.py

##@ Release it
bench: $(VENV)/test.stamp ## measure again what benchmarks/ holds (takes long)
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/time_layout.py
	$(BIN)/python benchmarks/ladder.py
	$(BIN)/python benchmarks/group_attention.py --repeats 3
	$(BIN)/python benchmarks/predictions.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/full_size.py
	$(BIN)/python benchmarks/readme.py

dist: $(VENV)/test.stamp ## build wheel and sdist in dist/
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"

##@ Clean up
clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
