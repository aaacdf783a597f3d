# The developer's day; `make help` lists it. Everything made here lands in build/ and in the user's cache directory.
PYTHON ?= $(shell for p in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := build/venv
BIN := $(VENV)/bin
TARGET ?= trixie
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help venv packages lab lab-ssh lab-sync lab-down lint unit fuzz kmod sanity topologies scenario bench scale stress stress-host images test test-full generated release clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

packages: build/.packages
build/.packages: lab/packages.txt tests/tools/packages.sh
	@mkdir -p build
	tests/tools/packages.sh lab/packages.txt
	@touch $@

venv: $(VENV)/.done
$(VENV)/.done: requirements-dev.txt build/.packages
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

lab: venv  ## the main job on a real VM: who reaches whom before and after hardening (TARGET=trixie)
	$(BIN)/python -m lab demo --target $(TARGET)

lab-ssh: venv  ## a shell in the lab VM
	$(BIN)/python -m lab ssh lab

lab-sync: venv  ## after an edit: rebuild and reload the module in the lab VM, apply again, probe again
	$(BIN)/python -m lab sync

lab-down:  ## stop the lab VM
	$(PYTHON) -m lab down lab

images: venv  ## build the VM images that are not cached yet
	$(BIN)/python -m lab image bullseye trixie trixie-backports

lint: venv  ## ruff, mypy, yamllint, ansible-lint, shellcheck, kernel style: seconds
	$(BIN)/python tests/run.py lint

unit: venv  ## pytest and the kernel core in user space under ASan and UBSan: a minute
	$(BIN)/python tests/run.py unit kmod-user

fuzz: packages  ## libFuzzer against the classifier's naive twin and the checks of rulesets (FUZZ_SECONDS=60)
	$(MAKE) --no-print-directory -C kmod/tests fuzz FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60)

kmod: venv  ## the module against the oldest and newest kernel: -W1, sparse
	$(BIN)/python tests/run.py kmod-build

sanity: venv  ## ansible-test sanity: two minutes the first time
	$(BIN)/python tests/run.py sanity

topologies: venv  ## the kernel's scripts on a target's own kernel without a disk, as JUnit: five minutes (TARGET=trixie)
	$(BIN)/python tests/run.py topologies-$(TARGET)

scenario: venv  ## one molecule scenario (SCENARIO=default, oldest, newest, boot, life): minutes
	$(BIN)/python tests/run.py molecule-$(or $(SCENARIO),default)

bench: venv  ## the packet path in executed instructions, beside its peers, into build/bench/results.json (PLAN=quick: a minute)
	PYTHONPATH=$(CURDIR):$(CURDIR)/.collections $(BIN)/python -m bench $(or $(PLAN),all)
	$(if $(PLAN),,PYTHONPATH=$(CURDIR):$(CURDIR)/.collections $(BIN)/python -m bench.commits)

scale: venv  ## what resolving and compiling a policy costs, to 10,000 containers and 5,000 rules, into build/scale/results.json: a minute
	PYTHONPATH=$(CURDIR):$(CURDIR)/.collections $(BIN)/python -m bench.scale

stress: venv  ## the module under a kernel with KASAN, lockdep, kmemleak, failing allocations: into build/stress/summary.json (SECONDS=1200)
	PYTHONPATH=$(CURDIR) $(BIN)/python -m stress --seconds $(or $(SECONDS),1200)

stress-host: venv  ## a Docker host under such a kernel, with the scenarios: into build/stress/host.json (SECONDS=600, of its churn)
	PYTHONPATH=$(CURDIR) $(BIN)/python -m stress.host --seconds $(or $(SECONDS),600)

test: venv  ## what CI runs, in one report under build/test/: half an hour on two fast cores
	$(BIN)/python tests/run.py all

test-full: venv  ## the same with every test on every kernel, and long runs of the topologies and the scenario life: hours
	BRIDGEWARDEN_FULL=1 LIFE_STARTS=100 LIFE_CHURN=300 LIFE_CONTAINERS=50 $(BIN)/python tests/run.py all

generated: venv  ## after an edit of the command's parser, the policy's tables or the rooms' order: manual page and completion, schema, picture
	$(BIN)/python tests/usage.py
	$(BIN)/python tests/schema.py
	$(BIN)/python tests/rooms.py

release: venv  ## build the collection's archive into build/release/
	$(BIN)/ansible-galaxy collection build --force --output-path build/release .

clean:  ## stop the VMs and remove build/ (the cache of images stays)
	-$(PYTHON) -m lab down --all
	rm -rf build
