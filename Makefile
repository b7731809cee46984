# make demo: set up, then run the main job.   make test: set up, then run every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test setup lint unit unit-first unit-second clean

demo: setup
	rm -rf demo
	$(BIN)/hwprune demo --output demo

test: lint unit

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two halves side by side, on one processor each. Other people's models bring libraries with threads of their own: they
# have a process for themselves.
FIRST := $(addprefix tests/,budget cli compression pruning regrow report saliency training)
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync)

unit: setup $(VENV)/zoo/.ready
	OMP_NUM_THREADS=1 $(MAKE) --jobs 2 $(SYNC) unit-first unit-second

unit-first:
	$(BIN)/python -m pytest $(FIRST)

unit-second:
	$(BIN)/python -m pytest tests $(addprefix --ignore=,tests/network $(FIRST))
	$(BIN)/python -m pytest tests/network

# timm and transformers, for tests of other people's models alone; without their dependencies, which would bring another
# torch. torchvision apart from them: its wheels are built for CUDA, and beside a CPU build of torch it cannot be imported.
APART = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target
$(VENV)/zoo/.ready: $(VENV)/.ready tests/network/zoo-requirements.txt
	$(APART) $(VENV)/zoo --requirement tests/network/zoo-requirements.txt
	$(APART) $(VENV)/torchvision torchvision==0.28.0
	touch $@

clean:
	rm -rf $(VENV) demo
