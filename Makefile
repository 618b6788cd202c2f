# Every target sets up what it needs: Python 3.11 or newer and make are enough.
#   make demo    fit a locator on made faces, test it across attributes, show the table
#   make test    run the tests          make check   formatting, lint, types
#   make audit   ask for known flaws of the packages installed in .venv: needs a network
#   make fix     repair formatting      make bench   measure speed      make clean
#   make test-faults   try every fault: bad input, kills, full disks; make faults writes docs/faults.md of it
#   make bench-compare   fail if a ratio is worse than the committed one; make bench-docs commits new ones
# PYTHON=python3.12 chooses the interpreter; VENV=folder another environment; ARGS=... goes to pytest.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
SPREAD := --numprocesses auto --maxprocesses 8 --dist loadfile
READY := $(VENV)/.flbench-ready
AUDIT := $(VENV)/audit

.PHONY: demo test test-faults check audit fix docs faults bench bench-docs bench-compare clean

demo: $(READY)
	@$(BIN)/flbench run --method fakelocator --protocol cross_attribute

test: $(READY)
	@$(BIN)/pytest $(SPREAD) --ignore tests/faults $(ARGS)

test-faults: $(READY)
	@$(BIN)/pytest $(SPREAD) tests/faults $(ARGS)

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# Without --strict, pip-audit passes over packages that it cannot ask about, and finds nothing wrong.
audit: $(READY)
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet pip-audit; } || \
		{ rm -rf $(AUDIT); echo "Nothing was checked: pip-audit cannot be had from a registry here." >&2; exit 1; }
	@$(BIN)/python -m pip list --format=freeze --exclude-editable | sed 's/+.*//' > $(AUDIT)/installed.txt
	@$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement $(AUDIT)/installed.txt $(ARGS) || \
		{ echo "Either packages have the flaws named above, or advisories cannot be had here and nothing was checked." >&2; exit 1; }

fix: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY)
	@$(BIN)/python docs/render.py

faults: $(READY)
	@$(BIN)/pytest tests/faults -p no:xdist --fault-report docs/faults.json $(ARGS)
	@$(BIN)/python docs/render.py

bench: $(READY)
	@$(BIN)/python docs/performance.py $(ARGS)

bench-docs: $(READY)
	@$(BIN)/python docs/performance.py --write $(ARGS)

bench-compare: $(READY)
	@$(BIN)/python docs/performance.py --compare $(ARGS)

clean:
	rm -rf $(VENV) build dist .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name '*.egg-info' -prune -exec rm -rf {} +

# The environment, made again when pyproject.toml changes; new methods and protocols are seen without that.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "flbench needs Python 3.11 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing flbench and its tools into $(VENV): once, and torch is large."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
