# make demo   runs the main flow for real against the local stand-in      (KEEP=1 keeps the UI up)
# make test   runs the tests
# make check  runs formatter, linter and type checkers
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test check dev browser docs constraints

demo: $(VENV)/run
	@$(BIN)/kosmo demo $(if $(KEEP),--keep)

test: $(VENV)/test browser
	@$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy -p prefect_kosmokrator
	@$(BIN)/pyright

dev: $(VENV)/dev
	@mkdir -p .links/prefect_kosmokrator
	@for folder in integrations blocks tasks flows deployments; do ln -sfn ../../$$folder .links/prefect_kosmokrator/$$folder; done

# The function tables in README.md and the pages in docs/, from the catalogue.
docs: $(VENV)/run
	@$(BIN)/python -m prefect_kosmokrator.integrations.docs

# One test opens the UI in a browser; without Chromium it is skipped.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
	  echo "Chromium is not installed: the test that looks at the UI will be skipped."

# The tested set of versions, for everybody.
constraints: $(VENV)/dev
	@$(BIN)/python -m pip freeze --exclude-editable --exclude prefect-kosmokrator | grep -E '^[A-Za-z0-9_.-]+==' > constraints.txt

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up (once, about a minute) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up for tests (once, about a minute) ..."
	@$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/run

$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up for development (once, about a minute) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/test $(VENV)/run
