# Two commands, each doing all its own set-up on a machine with Python 3.10 to 3.13 only:
#   make demo   the whole loop on the embedded world (about five minutes on two cores), then a report to look at
#   make test   lint, types, the documentation and tests
#   make docs   the documentation as a site: site/index.html
#   make test-wheel   every command of README.md and the quick start, typed literally in an environment made from the wheel
#   make test-lowest, make test-newest   the fast tests with the lowest and the newest libraries that pyproject.toml allows
# Another interpreter: make demo PYTHON=python3.12        Another build of torch: make demo TORCH_INDEX=<index URL>

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/shapes
ARGS ?=
PYTEST_ARGS ?=
SOURCES = .

# On Linux the default wheel of torch brings gigabytes of CUDA libraries: without an NVIDIA GPU PyTorch's CPU index is
# asked as well (an index that does not answer is only passed over). macOS wheels need none of this.
TORCH_INDEX ?= $(shell [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1 && echo https://download.pytorch.org/whl/cpu)

BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
CONSTRAINTS = constraints.txt
FAST = tests/test_versions.py tests/test_config.py tests/test_track.py tests/data tests/evaluate tests/families \
  tests/finetune tests/hub tests/referees tests/report

FIRST_HALF = tests/end_to_end tests/stages tests/sweep tests/benchmarks tests/test_fuzz.py

.PHONY: demo test test-lowest test-newest test-wheel fast lint types docs format install clean

demo: $(STAMP)
	$(BIN)/mitune demo run=$(RUN) $(ARGS)
	@echo
	@echo "Open the report:  $(abspath $(RUN))/report.html"

# Two halves side by side, of one thread each: half the time of one, and the last bit of a sum does not depend on the machine.
test: lint types docs
	@echo "tests: two halves side by side; what the first one says comes when it has ended"
	@half=$$(mktemp); export OMP_NUM_THREADS=1; \
	$(BIN)/python -m pytest -q -p no:cacheprovider $(PYTEST_ARGS) $(FIRST_HALF) > "$$half" 2>&1 & first=$$!; \
	$(BIN)/python -m pytest -q -p no:cacheprovider $(PYTEST_ARGS) tests $(addprefix --ignore=,$(FIRST_HALF)); second=$$?; \
	wait $$first; first=$$?; cat "$$half"; rm -f "$$half"; good() { test $$1 -eq 0 || test $$1 -eq 5; }; \
	good $$first && good $$second  # 5: nothing of what PYTEST_ARGS asks for is in that half

# Each in an environment of its own, made by the same recipe.
test-lowest test-newest: test-%:
	$(MAKE) fast VENV=.venv-$* CONSTRAINTS=constraints-$*.txt

fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" $(FAST) $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/hadolint Containerfile

types: $(STAMP)
	$(BIN)/mypy

# (mkdocs-material tells at every start that it is kept up until May 2027 and that Zensical, which reads mkdocs.yml, follows.)
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

test-wheel: $(STAMP)
	$(BIN)/python -m tests.wheel $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

format: $(STAMP)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

install: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 14) else "Python 3.10 to 3.13 is needed, this is %d.%d; say make PYTHON=python3.12" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) torch==2.13.0 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --retries 1 --timeout 20)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[dev,docs,survey,postgresql,wandb,tensorboard]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist site
