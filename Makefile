# Commands of this repository. `make` alone lists them.
#
# The virtual environment is made once and again when its inputs change (.venv/.stamp). uv is used
# where it can be had, pip otherwise; both keep to constraints.txt. System packages are installed
# with apt as root, after printing the list; STANNARY_NO_APT=1 prevents it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SYSTEM_STAMP := $(VENV)/.system-stamp
TORCH := torch==2.13.0
export OMP_NUM_THREADS ?= 1
# Container images forbid byte code; then each process of demo and tests would compile all it imports anew (2 s each).
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo quick test floor lint fmt types layers bench docs e2e e2e-vm e2e-seal e2e-train fuzz recorded vectors

help:
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "  make %-8s %s\n", $$1, $$2 }'

install: $(STAMP) $(SYSTEM_STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sh scripts/install-python.sh $(BIN) "$(TORCH)"
	@touch $@

$(SYSTEM_STAMP): scripts/install-system.sh | $(STAMP)
	@sh scripts/install-system.sh
	@touch $@

demo: install ## train twice among honest nodes, one that dies and two that lie; prove the results
	@$(BIN)/python examples/demo/run.py

quick: install ## run unit tests and simulator but the slow ones, on every core
	$(BIN)/pytest -n auto --hypothesis-profile quick -m "not slow" tests/unit tests/simulator

test: install ## run every test but the opt-in ones (20 minutes or more on 2 cores), or some: make test T=tests/unit/rules
	$(BIN)/pytest $(or $(T),-n 2 --floor --durations=25)

floor: install ## print how many branches of the rooms that decide their own tests take; fail below the floor
	$(BIN)/python -m tests.floor

lint: install ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: install ## rewrite to the format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install
	$(BIN)/mypy
	$(BIN)/mypy examples/demo

layers: install
	$(BIN)/lint-imports --no-cache

bench: install ## print every published figure
	$(BIN)/python bench/run.py

docs: install ## check that documents name real files, commands and error codes
	$(BIN)/python scripts/check_docs.py

e2e: install ## run the end-to-end tests alone
	$(BIN)/pytest tests/e2e

e2e-vm: install ## boot a measured guest in QEMU (opt-in; minutes; installs QEMU, OVMF and swtpm, fetches a kernel)
	@sh scripts/install-vm.sh
	STANNARY_VM=1 $(BIN)/pytest -m vm tests/vm

e2e-seal: install ## seal and open 4 GiB inside 256 MiB of memory (opt-in; minutes, needs root; `test` does it with 1 GiB)
	STANNARY_SLOW=1 $(BIN)/pytest tests/integration/seal/test_memory.py

e2e-train: install ## train a model of 538 MB with the default deadlines in 3 GiB (opt-in; minutes, needs root)
	STANNARY_SLOW=1 $(BIN)/pytest -s tests/e2e/test_large_model.py

fuzz: install ## fuzz every evidence parser for 10 minutes (with atheris: pip install '.[fuzz]')
	$(BIN)/python -m tests.fuzz.fuzz 600

recorded: install ## record the runs of tests/recorded anew; what differs is behaviour that changed
	$(BIN)/python -m tests.recorded.write

vectors: install ## write the test vectors anew; the tree must not change
	@set -e; for script in tests/vectors/*/generate.py; do test ! -e "$$script" || $(BIN)/python "$$script"; done
	git diff --exit-code -- tests/vectors
