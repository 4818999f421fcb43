# Each target does its own set-up: python3 with venv and a C++ compiler is all a machine needs.
.PHONY: install demo test check bench clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch and torchvision first and together: their versions must match, and the resolver is quicker so.
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	touch $@

demo: install
	$(BIN)/pairmill demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
	$(BIN)/python benchmarks/readme.py

clean:
	rm -rf $(VENV) build runs *.egg-info
