# `make help` lists the targets, with the text after ##. Tests wait more than they compute: WORKERS is for two cores.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
WORKERS ?= 6

# Everything that make runs finds the etcd of `make etcd` first.
CACHE  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tally
export PATH := $(CACHE)/newest/etcd/current:$(PATH)

# Where bytecode is not to be written, each process would compile all that it imports: a start takes twice as long.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install run demo test test-full test-cluster etcd cluster cluster-down check lint types audit-deps lock simulate mutants nightly chaos bench bench-full clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# If the stamp is older than its sources, the installation is brought up to date. Every dependency has a wheel, so no compiler
# is needed. Bytecode is compiled once: for all of Tally, and for what a start imports of the dependencies. The rest of them would
# take 70 MB, and is never run.
IMPORTED := controller.app, controller.cli.main, controller.dev.run, controller.engine.docker.engine, controller.engine.kubernetes.engine

install: $(VENV)/.installed ## install Tally and what its tests need into a virtual environment

$(VENV)/.installed: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tally needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version). Run: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "The virtual environment cannot be created: install your system's python3-venv package."; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	@VIRTUAL_ENV="$$(cd $(VENV) && pwd)" $(BIN)/uv sync --quiet --frozen --all-extras --active --python $(BIN)/python || \
	  { echo "The dependencies cannot be installed (see above). Is PyPI, or your mirror, reachable? If the error mentions a compiler:"; \
	    echo "all dependencies have wheels for CPython 3.11 to 3.13 on x86-64 Linux; elsewhere, install a compiler (Debian: build-essential)."; exit 1; }
	@$(BIN)/python -m compileall -q controller
	@$(BIN)/python -c 'import $(IMPORTED)'
	@touch $@

run: install ## run a whole cluster here: etcd, three replicas, sample tasks; Ctrl-C stops it
	@$(BIN)/tally dev

demo: install ## show the problem that Tally exists for, in half a minute: naive backends and Tally on a real etcd [ARGS="--html FILE --lang zh"]
	@$(BIN)/tally demo $(ARGS)

test: install ## run the tests (a few minutes on two cores)
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not slow and not cluster"

test-full: install ## run all tests, including the slow ones, and all examples of each
	TALLY_TEST_EXAMPLES=whole $(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not cluster"

# KUBECONFIG names the cluster; IMAGE must be on its node, or be pullable; ARGS is, for example, --cluster-host-network.
IMAGE ?= busybox:1.36
NAMESPACE ?= tally-test
test-cluster: install ## run tests/cluster on the Kubernetes that KUBECONFIG names [IMAGE= NAMESPACE= ARGS=]
	@test -n "$$KUBECONFIG" || { echo "KUBECONFIG is not set. Run: make test-cluster KUBECONFIG=~/.kube/config"; exit 2; }
	$(BIN)/pytest tests/cluster -m cluster --cluster-image $(IMAGE) --cluster-namespace $(NAMESPACE) $(ARGS)

etcd: ## fetch Debian's newest etcd, which make's commands then use; nothing is installed (Debian 12 or newer)
	@folder=$$(tests/support/newest.sh etcd etcd-server etcd-client) && \
	  echo "make run, make test and make bench use it from now on; elsewhere: export PATH=\"$$folder:\$$PATH\""

# Not in the clone: the folder has a socket, whose path must be short.
CLUSTER ?= /var/tmp/tally-one-node
cluster: ## bring up a real one-node Kubernetes, built once in a few minutes (root, Debian) [CLUSTER=folder]
	@tests/cluster/one_node/up.sh "$(CLUSTER)" && \
	  echo "make test-cluster KUBECONFIG=\"$(CLUSTER)/kubeconfig\" ARGS=--cluster-host-network; make cluster-down stops it"

cluster-down: ## stop what `make cluster` started
	@tests/cluster/one_node/down.sh "$(CLUSTER)"

check: lint types ## lint and types: what CI runs before the tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# Not part of `check`: the list of vulnerabilities is on the network, and may change at any time. A dependency that cannot be
# looked up is an error (--strict), and does not count as safe.
audit-deps: install ## compare the locked dependencies with the public list of known vulnerabilities (needs PyPI itself)
	@locked=$$(mktemp) && trap 'rm -f "$$locked"' EXIT && \
	  $(BIN)/uv export --quiet --frozen --all-extras --no-dev --no-emit-project --output-file "$$locked" && \
	  $(BIN)/uv tool run --quiet --from 'pip-audit>=2.7' pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r "$$locked" || \
	  { echo "Failed: see above for what was found. If a dependency could not be looked up, NOTHING was audited: the list is at pypi.org"; \
	    echo "itself, and mirrors do not have it. Run this where pypi.org can be reached, or scan uv.lock with a tool that has a list."; exit 1; }

lock: ## renew the lock file
	$(BIN)/uv lock --upgrade

simulate: install ## simulate clusters under faults: SEEDS=1000, or SEED=7 (STEPS, REPLICAS, TASKS, FAULTS, DENSITY, WITH, TRACE)
	@$(BIN)/python -m tests.simulation

mutants: install ## seed bugs into the code, one by one, and print how many seeds of the simulation find each
	@$(BIN)/python -m tests.simulation.mutants

nightly: install ## 1,000 seeds of 2,000 steps, then all mutants: half an hour
	@STEPS=2000 $(BIN)/python -m tests.simulation
	@$(BIN)/python -m tests.simulation.mutants

chaos: install ## kill, stop and cut off real processes for MINUTES=5, from a SEED (MIX=1, ENGINE=kubernetes, FAULTS="leader killed,…", REPLICAS, USERS)
	@$(BIN)/python -m tests.chaos

bench: install ## measure all rows in a few minutes, or ROWS=B2,B7; print a table, and assert nothing
	@ROWS="$(ROWS)" $(BIN)/python -m tests.bench

bench-full: install ## measure at full size, beside other systems: takes more than an hour and 3 GB of disk [ROWS=…]
	@ROWS="$(ROWS)" $(BIN)/python -m tests.bench --full

clean: ## remove the virtual environment, caches and the local cluster's data
	rm -rf $(VENV) .tally .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
