# The two commands that matter: `make up` and `make test`. Both set up .venv first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
ARGS ?=

# Every node of a test is a process that imports all of it: compiled once, not each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup up test lint types format sim bench e2e kind-up kind-down crd lock clean

help: ## show this help
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: ## make .venv with the pinned dependencies
	@scripts/setup

up: setup ## run a three-node store on 127.0.0.1:8100 (ARGS="-f cluster.yaml ...")
	@$(BIN)/dynamo local up $(ARGS)

# Three lanes for two cores: models and simulations keep one busy, real processes mostly wait.
# Each lane has ports (bench/ports.py) and folders of its own; who has nothing left takes from
# the others.
test: setup lint ## lint, types, layer contracts and all tests (ARGS="-k name" for some)
	@$(BIN)/pytest $(or $(ARGS),-q -n 3 --dist worksteal)

lint: setup ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: setup ## reformat and mend what ruff can mend
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

sim: setup ## simulate whole clusters on virtual time (SEEDS=1000, START=0; SEED=n replays one)
	@$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000) --start $(or $(START),0)) $(ARGS)

bench: setup ## compare with a three-node etcd on this machine (ARGS="--quick")
	@$(BIN)/python -m bench $(ARGS)

e2e: setup ## bad days from outside: of a local cluster, and on kind (or E2E_KUBECONFIG)
	@$(BIN)/pytest e2e $(if $(SCENARIO),-k "$(SCENARIO)") $(ARGS)

kind-up: ## the store on a Kubernetes of its own, in Docker (BASE_IMAGE, KIND_NODE_IMAGE, JAEGER_IMAGE, DOCKER_BUILD_ARGS)
	@scripts/kind_up

kind-down: ## take that away again
	@kind delete cluster --name $(or $(CLUSTER),dynamo)

crd: setup ## make the definition, the tables of docs/reference.md and the roles anew
	@$(BIN)/python -m dynamo_operator.kube.crd > crds/dynamoclusters.yaml
	@$(BIN)/python -m dynamo_operator.kube.reference docs/reference.md
	@$(BIN)/python scripts/install_files.py

lock: setup ## resolve requirements.lock anew
	@$(BIN)/pip install -q uv && $(BIN)/uv pip compile --quiet --universal --generate-hashes --all-extras --no-emit-package dynamo-store --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock pyproject.toml

clean: ## remove .venv and caches (data folders stay)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +
