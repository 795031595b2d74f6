# `make run` boots the guest that comes with the project; `make test` tests everything that is not a soak test. Both set
# up what they need: a virtual environment in .venv, the host tools and the boot images (in a cache outside the tree).

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
COMPILED := .venv/.compiled
DEMO := build/demo.img
SOURCES := $(shell find bt firmware vmm -name '*.py')
FIRMWARE := $(shell find firmware -name '*.py' -o -name '*.s' -o -name '*.inc')

.PHONY: run test lint check images soak clean

run: $(DEMO) $(COMPILED)
	$(BIN)/vmm run $(DEMO)

test: $(COMPILED) images
	PATH="$$($(BIN)/python -m tools.host_tools):$$PATH" $(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow'

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint $(COMPILED)
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not boot and not long and not slow'

images: $(COMPILED)
	$(BIN)/python -m tools.fetch_images

soak: $(COMPILED) images
	PATH="$$($(BIN)/python -m tools.host_tools):$$PATH" $(BIN)/python -m pytest -n auto --dist worksteal

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO): $(READY) $(FIRMWARE)
	mkdir -p $(@D)
	$(BIN)/python -m firmware.demo_guest --out $@

# Debian keeps what the venv module needs in a package of its own; where it is missing, virtualenv does the same from PyPI.
$(READY): pyproject.toml
	$(PYTHON) -m venv .venv 2>/dev/null \
		|| { $(PYTHON) -m pip install --quiet --target build/virtualenv virtualenv \
			&& PYTHONPATH=build/virtualenv $(PYTHON) -m virtualenv --quiet --clear .venv; } \
		|| { echo "no virtual environment: install python3-venv and try again" >&2; exit 1; }
	$(BIN)/pip install --quiet --config-settings editable_mode=compat --editable '.[dev]'
	touch $@

# Where Python is told not to write bytecode (PYTHONDONTWRITEBYTECODE), each start would compile everything: 0.15 s.
$(COMPILED): $(READY) $(SOURCES)
	$(BIN)/python -m compileall -q bt firmware vmm
	touch $@
