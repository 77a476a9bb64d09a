# What people do with this repository. `make` alone lists it. The work is in scripts/, testbed/ and images/; each script can be called by itself.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build images demo demo-down test faults faults-long screenshots bench lint fmt crds

# Everything that is built lands outside the work tree, with one profile, so that nothing is compiled twice.
export CARGO_TARGET_DIR := $(shell . scripts/env.sh; echo "$$CARGO_TARGET_DIR")
CARGO_FLAGS := --release --workspace --locked

# For demo and demo-down: kind | testbed; unset = kind where Docker, kind and the servers' images are to be had, else the test bed.
export CLUSTER
# For faults: the runs of `make test` once per seed. For faults-long: the first.
export FAULT_SEEDS ?= 1 2 3

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## check this machine and build the test bed (once; about 15 minutes on two cores)
	@scripts/doctor.sh rust testbed
	@testbed/install.sh
	@scripts/doctor.sh build

build: ## compile everything
	@scripts/doctor.sh rust build
	cargo build $(CARGO_FLAGS)

images: build ## build the container images of the operator, the worker, the producer and the dashboard
	@images/build.sh

demo: ## from nothing to a running pipeline on real market data (CLUSTER=kind|testbed)
	@scripts/demo.sh up

demo-down: ## remove the demo and its cluster
	@scripts/demo.sh down

test: ## format, lints, drift, unit and end-to-end tests
	@scripts/test.sh

faults: ## fault runs with three seeds; half an hour; writes docs/faults.md (FAULT_SEEDS="1 2 3")
	@scripts/test.sh faults

faults-long: ## all faults at once over several rounds, servers killed and frozen; half an hour
	@scripts/test.sh faults long

screenshots: ## look at each page of the dashboard; pictures of them into docs/dashboard
	@scripts/test.sh screenshots

bench: images ## measure against Spark (bench/)
	@bench/run

lint: ## format and clippy, without tests
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

fmt: ## format the code
	cargo fmt --all

crds: ## write crds/ from the types
	@scripts/crds.sh
