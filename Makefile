# Everything from a bare machine: `make demo`, `make test`, `make check`.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3.13 python3,$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
BIN := .venv/bin

.PHONY: demo test test-all check format bench growth clean

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "groundup needs Python 3.11 or newer: none found on PATH; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/ready  ## the question answered on drawn scenes; the page is runs/demo/study/report/report.html
	$(BIN)/groundup demo --out runs/demo

test: .venv/ready  ## the default suite
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-all: .venv/ready  ## the default suite and the longer trainings
	$(BIN)/python -m pytest -m "not gpu"

check: .venv/ready  ## format, lint, strict types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/ready  ## every row of the speed targets beside its peers; BENCH='--quick', '--only loader', '--guard'
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python benchmarks/bench.py $(BENCH)

growth: .venv/ready  ## how cost grows with images, objects, pixels, workers, processes
	$(BIN)/python benchmarks/growth.py $(GROWTH)

clean:
	rm -rf .venv build dist src/*.egg-info
