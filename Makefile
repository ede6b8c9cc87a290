# Everything runs in .venv with the versions of constraints.txt. PYTHON=python3.12 make ... chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check format bench clean

quickstart: .venv/.installed
	$(BIN)/diffcse quickstart --output quickstart --resume

test: .venv/.installed-test
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

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

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) found. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[report]"
	@touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[report,test]"
	@touch $@

.venv/.installed-check: .venv/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[report,check]"
	@touch $@

.venv/.installed-bench: .venv/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[report,bench,minilm]"
	@touch $@
