# make demo: the whole road on the embedded digits data.  make test: the test suite.  make docs: the site.  make check: what CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test docs check format clean

demo: $(VENV)/installed
	bash runs/demo.sh

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist worksteal -q

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(MAKE) docs
	$(MAKE) test

docs: $(VENV)/installed-docs
	$(BIN)/python docs/write_reference.py
	$(BIN)/zensical build --strict --clean

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) dist build site docs/reference
