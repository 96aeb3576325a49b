# The one door for chores. `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check fix bench bench-warehouse bench-kvasir docs clean

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash runs/tiny.sh

# One process per core, one thread each.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/make_cli.py --check

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The others' loaders come into an environment of their own, in a temporary folder: some gigabytes.
bench: $(READY)
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/loader_peers.py
	$(BIN)/python benchmarks/view.py

# Half an hour and 45 GB of disk: adding to a warehouse, 200 faults, a training over 20 GB.
bench-warehouse: $(READY)
	$(BIN)/python benchmarks/etl_reuse.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/memory.py

# Hours; stop it and call it again as you like.
bench-kvasir: $(READY)
	$(BIN)/python benchmarks/kvasir_vs_yolo.py

docs: $(READY)
	$(BIN)/python docs/make_cli.py
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
