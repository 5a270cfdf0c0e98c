# Everything on a fresh machine: `make sweep` (the main job) and `make test`. Any Python 3.11 to 3.13: make PYTHON=python3.12 ...
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: sweep test test-slow setup install check ui bench clean

sweep: setup
	$(RUN) -m orchestrator +sweep=lora

test: install
	$(RUN) -m pytest -n 2 --dist loadfile

# The tests of faults and repetition, minutes each.
test-slow: install
	$(RUN) -m pytest -m slow

# The environment and the default base model.
setup: install
	$(RUN) -m orchestrator job=setup

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit("$(PYTHON) is Python %d.%d; name one of 3.11 to 3.13: make PYTHON=python3.12" % v)'
	@echo "installing the packages that constraints.txt pins into $(VENV): two minutes and more, the first time only"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]' || { \
	  echo "install failed: pip could not fetch a package named above. With the files at hand: $(RUN) -m pip install --no-index --find-links FOLDER -c constraints.txt -e '.[dev,bench]'"; exit 1; }
	@touch $@

check: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(RUN)
	$(RUN) -m tests.support.secret_scan
	$(RUN) -m tests.support.dependency_audit

ui: install
	$(VENV)/bin/mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db

bench: setup
	mkdir -p outputs/benchmarks
	$(RUN) -m benchmarks.step --json outputs/benchmarks/step.json
	$(RUN) -m benchmarks.overhead --json outputs/benchmarks/overhead.json
	$(RUN) -m benchmarks.scale --json outputs/benchmarks/scale.json --chart outputs/benchmarks/scale.svg
	$(RUN) -m benchmarks.data --json outputs/benchmarks/data.json
	$(RUN) -m benchmarks.makespan --trials 8 --steps 16 --json outputs/benchmarks/makespan.json

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
