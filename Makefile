# make quickstart: from real digits to a one-step student. make test: the tests. make lessons: every lesson, shortened.
# On Linux, plain "torch" comes with several GB of CUDA; TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
# takes the small build for processors.

PYTHON ?= python3
TORCH ?= torch
VENV ?= .venv
OUT ?= runs/digits-progressive

.PHONY: quickstart test lessons lint render
quickstart: $(VENV)/installed
	$(VENV)/bin/minidistill progressive --out $(OUT) --resume

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest --numprocesses=2 --jaxtyping-packages=minidistill,beartype.beartype

lessons: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest --numprocesses=2 -m lessons

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

render: $(VENV)/installed-dev
	$(VENV)/bin/python notebooks/render.py notebooks/*.ipynb notebooks/appendix/*.ipynb

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -c "import torch" 2>/dev/null || $(VENV)/bin/pip install $(TORCH)
	$(VENV)/bin/pip install --editable ".[figures]"
	touch $@

$(VENV)/installed-dev: pyproject.toml $(VENV)/installed
	$(VENV)/bin/pip install --editable ".[dev]"
	touch $@
