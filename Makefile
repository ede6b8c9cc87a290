# Everything runs in .venv with the versions of constraints.txt. PYTHON=python3.12 make ... chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
comma := ,

.PHONY: quickstart test test-optional faults check format bench clean

quickstart: .venv/.installed
	$(BIN)/diffcse quickstart --output quickstart --resume

test: .venv/.installed-test
	$(BIN)/python -m pytest -m "not ray and not browser" -n logical --maxprocesses 4 --dist loadfile

# Also the tests that need a browser, Ray, OpenVINO, mteb or a real encoder. Several hundred megabytes to install.
test-optional: .venv/.installed-optional
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

# Kills, errors of the disk and damaged inputs: about two hours. What crashes a reader is kept in faults/.
faults: .venv/.installed-test
	$(BIN)/python -W ignore -m tests.faults --table docs/reliability.md

check: .venv/.installed-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.installed-check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A quarter of an hour on two idle cores. TEXT=sentences.txt takes lengths from your text, ROUNDS=7 measures longer.
bench: .venv/.installed-bench
	env -u OMP_NUM_THREADS OMP_PROC_BIND=true GOMP_SPINCOUNT=3000 $(BIN)/python -m benchmarks.speed $(TEXT) $(if $(ROUNDS),--rounds $(ROUNDS))

clean:
	rm -rf .venv quickstart

# uv installs several times faster than pip, and both read constraints.txt.
UV := $(shell command -v uv)
INSTALL := $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install) --quiet -c constraints.txt

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) found. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) -e ".[report]"
	@touch $@

.venv/.installed-%: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) -e ".[report,$(if $(filter bench,$*),bench$(comma)minilm,$*)]"
	@touch .venv/.installed $@
