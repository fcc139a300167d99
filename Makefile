# Two commands on a fresh machine: `make fit` (set-up, then the main job) and `make test` (set-up, then the tests).
# The newest Python found, unless one is named: make PYTHON=/path/to/python3.12
PYTHON ?= $(firstword $(foreach v,3.14 3.13 3.12 3.11,$(shell python$(v) -c 'import ensurepip; print("python$(v)")' 2>/dev/null)) python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: fit test test-all campaign fuzz check docs bench gpu clean

fit: $(READY)  ## fit the bundled model on the bundled photographs to this machine
	@$(BIN)/foveate fit $(ARGS); code=$$?; if [ $$code -eq 3 ]; then echo "exit 3: nothing faster within the budget; the best dense build was written"; else exit $$code; fi

test: $(READY)  ## the default tests: under six minutes on two cores
	$(BIN)/python -m pytest -n 2

test-all: $(READY)  ## slow and data-dependent tests too; FOVEATE_DATA names the folder with the data
	$(BIN)/python -m pytest -m "not gpu" 

campaign: $(READY)  ## kills, signals, full disks, damaged files, hostile clients: thousands of trials, twenty minutes
	FOVEATE_CAMPAIGN=$(CURDIR)/benchmarks/results/reliability.json $(BIN)/python -m pytest -n 2 --dist worksteal -m slow -rs -s tests/campaign
	$(BIN)/python -m benchmarks.table

SECONDS ?= 3600
fuzz: $(READY)  ## coverage-guided fuzzing of what strangers write, so many seconds each, side by side
	$(BIN)/python -m pip install --quiet atheris
	cd tests && for name in protocol plan labels; do $(abspath $(BIN))/python -m campaign.fuzz $$name --seconds $(SECONDS) \
		--corpus ../.fuzz --out ../benchmarks/results/reliability.json & done; wait
	$(BIN)/python -m benchmarks.table

check: $(READY)  ## format, lint, types, import contracts, the documentation site
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs: $(READY)  ## the documentation site, at http://127.0.0.1:8001
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8001

bench: $(READY)  ## everything in benchmarks/, hours on a quiet machine; results are committed
	$(BIN)/python -m benchmarks.run

# No environment is made: a GPU machine may reach no registry, and has torch and timm. make gpu PYTHON=/path/to/python3
gpu: PYTHON = python3
gpu:  ## on a GPU, its tests and benchmarks with the python found: unattended, eight minutes at most
	@why=$$(PYTHONPATH=. $(PYTHON) -m benchmarks.gpu --why-not); asked=$$?; \
	if [ $$asked -ne 0 ]; then exit $$asked; fi; \
	if [ -n "$$why" ]; then echo "nothing was run: $$why"; exit 0; fi; \
	PYTHONPATH=. timeout 200 $(PYTHON) -m pytest -p no:cacheprovider -p no:benchmark -m gpu tests/gpu; tested=$$?; \
	PYTHONPATH=. timeout 270 $(PYTHON) -m benchmarks.gpu --seconds 250; \
	exit $$tested

clean:
	rm -rf $(VENV) foveate-out

$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) on PATH; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(READY)
