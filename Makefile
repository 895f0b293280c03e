# One command each, from a fresh checkout: `make demo`, `make test`, `make bench`.
# PYTHON: the interpreter that makes .venv, 3.11 or later. DIR: a folder for the demo to audit. ARGS: more arguments.

PYTHON ?= $(firstword $(foreach candidate,python3 python3.13 python3.12 python3.11,$(shell $(candidate) -c \
	'import sys; print("$(candidate)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))
DIR ?=
IN_VENV := .venv/bin/python
INSTALL := $(IN_VENV) -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-check faults faults-quick kills clean

help:
	@echo "make demo         install into .venv and audit the source of your Python (or DIR=path)"
	@echo "make test         install, lint, type-check, smoke the benchmarks and the faults, and run every test"
	@echo "make bench        measure everything, against a bare apsw program and other systems; 15 minutes (ARGS=\"peers-chat --repeat 5\")"
	@echo "make bench-check  compare the noise-free figures with the committed ones"
	@echo "make faults       pull plugs, kill, damage and forge; what was lost, beside a control that must lose; 12 minutes (ARGS=\"cuts --seed 7\")"
	@echo "make kills        kill durable runs 300 times and check that none of them notices (ARGS=\"--seed 7\")"
	@echo "make clean        remove .venv and what the tools leave behind"

demo: .venv/installed
	@$(IN_VENV) examples/source_audit.py $(if $(DIR),"$(DIR)")

# pytest comes last: its closing line is the verdict.
test: check
	$(IN_VENV) -m pytest

check: .venv/installed-test
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .
	$(IN_VENV) -m mypy
	$(IN_VENV) -m benchmarks check
	@rm -f .venv/quick.db*
	$(IN_VENV) -m benchmarks run --quick --db .venv/quick.db
	$(IN_VENV) -m tests.faults --quick

bench: .venv/installed-test
	$(IN_VENV) -m benchmarks run $(ARGS)

bench-check: .venv/installed-test
	$(IN_VENV) -m benchmarks check

.venv/installed: pyproject.toml | $(IN_VENV)
	$(INSTALL) -e .
	@touch $@

.venv/installed-test: pyproject.toml | $(IN_VENV)
	$(INSTALL) -e '.[test]'
	$(INSTALL) --target .venv/encryption --upgrade --no-deps apsw-sqlite3mc || echo "no apsw-sqlite3mc for this platform: tests of encryption are skipped"
	@touch .venv/installed $@

$(IN_VENV):
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later was found; give one: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

faults: .venv/installed-test
	$(IN_VENV) -m tests.faults $(ARGS)

faults-quick: .venv/installed-test
	$(IN_VENV) -m tests.faults --quick $(ARGS)

kills: .venv/installed-test
	$(IN_VENV) -m tests.faults.kills --kills 300 $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist source_audit.db*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
