# All chores. `make demo` and `make test` install everything they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test stress check fix bench bench-warehouse bench-kvasir docs clean

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash runs/tiny.sh

# One process per CPU core, one thread each.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Seeded faults of every kind: warehouses, label files, checkpoints, short failing commands, trainings
# killed or started twice, and ten minutes of actions on running views. Half an hour on two cores. The
# tests of a full disk need root.
stress: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile -m stress tests/stress

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/make_cli.py --check

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The other libraries' loaders are installed into a temporary folder: several gigabytes.
bench: $(READY)
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.loader.compare
	$(BIN)/python -m benchmarks.view

# Half an hour and 45 GB of disk: adding a run to a warehouse, a training over 20 GB.
bench-warehouse: $(READY)
	$(BIN)/python -m benchmarks.etl_reuse
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.import_frames --stages

# Hours; it can be stopped, and continues when it is called again.
bench-kvasir: $(READY)
	$(BIN)/python -m benchmarks.kvasir.compare

docs: $(READY)
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_quickstart.py
	$(BIN)/python docs/make_models.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/make_training.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/make_view.py

clean:
	rm -rf $(VENV) demo

# The environment is complete when the stamp exists, so an interrupted install starts again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
