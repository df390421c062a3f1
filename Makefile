# What a person does with a checkout. Each verb sets up what it needs first; when nothing changed that takes well under a second.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
BOOTSTRAP := $(PYTHON) setup/bootstrap.py

.PHONY: help demo run stop test bench fresh lint lock web clean

help: ## this list
	@echo "make VERB [ARGS='...']"
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  \1|/' | awk -F'|' '{printf "%-8s %s\n", $$1, $$2}'

demo: ## set everything up and take one prompt to a pull request, on a sample repository
	@$(BOOTSTRAP)
	@$(BIN)/openinspect demo $(ARGS)

run: ## start the server and print a link to sign in
	@$(BOOTSTRAP)
	@$(BIN)/openinspect up $(ARGS)

stop: ## end the server and what belongs to it
	@if [ -x $(BIN)/openinspect ]; then $(BIN)/openinspect down $(ARGS); else echo "Nothing is set up here, so nothing is running."; fi

test: ## every check and every test (ARGS are pytest's)
	@$(BOOTSTRAP) --dev
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

bench: ## the measurements of docs/performance.md
	@$(BOOTSTRAP) --dev
	@$(BIN)/python -m bench $(ARGS)

fresh: ## prove demo and test on a bare Debian made for it (takes root)
	@bash setup/fresh.sh $(ARGS)

lint: ## style, types and floors, of the web app too
	@$(BOOTSTRAP) --dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo
	@$(PYTHON) -m setup.webapp

lock: ## pin the dependencies anew (ARGS=--upgrade takes the newest)
	@$(BOOTSTRAP) --dev
	@$(PYTHON) -m setup.lock $(ARGS)

web: ## build the web app
	@$(BOOTSTRAP) --rebuild-web

clean: ## remove all that set-up made in this checkout; your data stays
	rm -rf .venv .tools web/node_modules src/openinspect/web/static
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
