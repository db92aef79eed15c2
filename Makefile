# The two commands of the README. Everything happens inside .venv; nothing outside this folder is touched.
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed
	$(BIN)/heredity run ssl-wm quick --out runs/demo --resume

test: .venv/installed-dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict --site-dir site

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ .venv/installed

.PHONY: demo test docs
