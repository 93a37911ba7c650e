# Everything a person does here. Recipes take their settings from scripts/env.sh; the project's path may hold spaces.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo airflow test lint parity bench preprocess crash kills stall scaling pictures lock clean

ENV := source scripts/env.sh &&
GOLDEN ?= ../shared/golden
export GOLDEN DATA

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## make the environments .venv (Airflow) and .venv-train (training); quick when nothing has changed
	@scripts/setup.sh

demo: setup ## the whole job on synthetic data through Airflow, in minutes; prints where the report is
	@$(ENV) PYTHONPATH="$$MTC_HOME/plugins:$$PYTHONPATH" .venv/bin/python -m mtc_airflow.demo $(ARGS)

airflow: setup ## Airflow's web page on 127.0.0.1:8080 (MTC_PORT=...); Ctrl-C stops it
	@$(ENV) PYTHONPATH="$$MTC_HOME/plugins:$$PYTHONPATH" exec .venv/bin/python -m mtc_airflow.local $(ARGS)

test: ## all tests, on both TensorFlows where Python 3.7 is there; options for pytest: ARGS="-x -k crop"
	@scripts/setup.sh --tests
	@$(ENV) scripts/test.sh $(ARGS)

lint: ## ruff and mypy
	@scripts/setup.sh --tests
	@$(ENV) scripts/lint.sh

parity: ## compare with golden numbers: GOLDEN=folder (default ../shared/golden)
	@scripts/setup.sh --tests
	@$(ENV) scripts/parity.sh "$$GOLDEN"

bench: ## speed and memory against the reference's shape, in 25 minutes; ARGS="--only a,b --quick", DATA=folder with real images
	@scripts/setup.sh --tests
	@$(ENV) scripts/bench.sh $(ARGS)

preprocess: ## speed and memory of preparing all of COCO, simulated, against a plain loop over pycocotools, in 11 minutes; ARGS="--share 0.1"
	@scripts/setup.sh --tests
	@$(ENV) "$$MTC_PYTHON" -m benchmarks.preprocess $(ARGS)

kills: ## kill fetching and preprocessing 200 times, in 9 minutes, and check that the end is the same; ARGS="--kills 30 --seed 2"
	@scripts/setup.sh --tests
	@$(ENV) "$$MTC_PYTHON" -m benchmarks.kills $(ARGS)

crash: ## kill trainers a thousand times, in 40 minutes, and check that nothing is lost; ARGS="--cycles 100 --seed 2"
	@scripts/setup.sh --tests
	@$(ENV) "$$MTC_PYTHON" -m benchmarks.crash $(ARGS)

stall: ## what a checkpoint costs the step loop, at full size, in 3 minutes
	@scripts/setup.sh --tests
	@$(ENV) "$$MTC_PYTHON" -m benchmarks.stall $(ARGS)

scaling: ## how training scales over 1, 2 and 4 ranks on networks with a delay and a rate, in 15 minutes; needs root; ARGS="--quick"
	@scripts/setup.sh --tests
	@$(ENV) "$$MTC_PYTHON" -m benchmarks.scaling $(ARGS)

pictures: ## take the pictures of docs/ in a browser (needs Chromium), while a training runs
	@scripts/setup.sh --tests
	@$(ENV) MTC_PICTURES="$$MTC_HOME/docs" .venv/bin/python -m pytest -q test/dag/test_browser.py

lock: ## renew requirements/*.lock from requirements.txt (needs Python 3.11 and 3.7)
	@scripts/lock.sh

clean: ## remove environments, Airflow's database and caches; never data/, runs/, snapshots/, storage/
	rm -rf .venv .venv-train .venv-train2 .venv-deploy .setup .airflow .pytest_cache .ruff_cache .mypy_cache plugins/mtc_airflow/training_page/static/vendor
	find . -name __pycache__ -type d -not -path './data/*' -not -path './runs/*' -not -path './snapshots/*' -not -path './storage/*' -prune -exec rm -rf {} +
