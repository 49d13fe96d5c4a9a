# Everything a user or a developer runs. `make` alone lists it.
#
# Nothing but python3 (3.11 or newer, with its venv module), make and git is expected of the machine: the rest
# is installed into .venv/ from the files of requirements/.

SHELL := bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
PORT ?= 5000
VENV := $(CURDIR)/.venv
# .venv/ is complete when this file exists: it is written last, and named by what was installed and where (a virtual
# environment cannot be moved).
LOCKS := requirements/lock.txt requirements/torch.txt requirements/no-deps.lock
INSTALLED := .venv/.installed-$(shell { echo '$(CURDIR)'; cat $(LOCKS); } | cksum | cut -d ' ' -f 1)

# Stages started by DVC find the same programs; nothing of the caller's own Python leaks in; nobody phones home.
export PATH := $(VENV)/bin:$(PATH)
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHONNOUSERSITE := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := true
# waiting threads spin for a moment only: see pipeline/__init__.py
export GOMP_SPINCOUNT := 10000

.PHONY: help
help: ## list these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: env
env: $(INSTALLED) ## install the locked dependencies into .venv/ (again whenever requirements/ changes)

$(INSTALLED):
	@command -v $(PYTHON) >/dev/null || { echo "make env: no '$(PYTHON)' on PATH: install Python 3.11 or newer, or name one: make env PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"make env: $(PYTHON) is Python {v[0]}.{v[1]}; 3.11 or newer is needed: make env PYTHON=/path/to/python")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "make env: $(PYTHON) has no venv module: install it (on Debian and Ubuntu the package python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/lock.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/no-deps.lock
	@touch $@

.PHONY: demo
demo: env ## the default experiment, params.yaml: trains, attacks, prints the table and where everything is
	dvc repro attack simulate
	dvc repro --quiet --single-item --force report

.PHONY: paper
paper: env ## the paper's experiment, paper/params.yaml: hours on a data-centre GPU
	dvc repro paper/dvc.yaml

.PHONY: report
report: env ## table, figures and HTML page again, from the runs tracked for params.yaml
	python -m analysis

# runs that were sent to a server are shown by that server
RUNS := $(or $(MLFLOW_TRACKING_URI),sqlite:///$(CURDIR)/mlflow.db)

.PHONY: ui
ui: env ## browse the tracked runs on 127.0.0.1, port 5000 or PORT=...
ifneq ($(filter http://% https://%,$(RUNS)),)
	@echo "the runs are tracked by the server $(RUNS) (MLFLOW_TRACKING_URI): open it in a browser"
else
	@echo "MLflow on http://127.0.0.1:$(PORT) in about ten seconds; Ctrl-C stops it"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --backend-store-uri "$(RUNS)" \
	  --artifacts-destination "$(CURDIR)/mlartifacts" --host 127.0.0.1 --port $(PORT) --workers 1
endif

.PHONY: bench
bench: env ## speed on this machine: injected networks against dense, our training step against the plain one
	python -m benchmarks.injected_network
	python -m benchmarks.training_step

.PHONY: lint
lint: env ## formatting, lint and types, changing nothing
	ruff format --check .
	ruff check .
	mypy

.PHONY: test
test: lint ## lint, then the whole test suite, on up to four cores
	python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: quick
quick: env ## the tests that take no more than a moment
	python -m pytest -m "not slow and not cluster"

.PHONY: test-cluster
test-cluster: env ## the tests with real servers on this machine; installs what requirements/cluster.lock adds
	python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/cluster.lock
	python -m pytest -m cluster tests/cluster

.PHONY: format
format: env ## format the code and mend what ruff can mend
	ruff check --fix .
	ruff format .

.PHONY: lock
lock: env ## resolve requirements/*.in into the locks again; UPGRADE=1 takes newer versions
	uv pip compile $(LOCK_OPTIONS) requirements/base.in requirements/dev.in -o requirements/lock.txt
	uv pip compile $(LOCK_OPTIONS) --no-deps requirements/no-deps.in -o requirements/no-deps.lock
	uv pip compile $(LOCK_OPTIONS) -c requirements/lock.txt requirements/cluster.in -o requirements/cluster.lock

# One lock for all platforms and Python versions, with hashes and without addresses or paths of the machine that made it.
LOCK_OPTIONS = --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## delete caches and builds; results (store/, mlflow.db, reports/) and .venv/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
