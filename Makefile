# Every target sets up first what it needs. `make` alone lists the targets and the variables.
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
PRESET ?= quick
METHOD ?= mls
EPOCHS ?= 400
OUT ?= output
DATA ?= $(if $(filter quick,$(PRESET)),datasets/scenes,$(DETECTRON2_DATASETS))
SUITE ?= suites/$(PRESET:paper=paper_table1).yaml
$(if $(findstring ",$(subst `,",$(subst \,",$(OUT)$(DATA)$(SUITE)$(BACKBONE)$(SRC)$(DST)))),$(error a path has ", ` or \: rename it))

RUN := $(VENV)/bin/python
BENCHMARK := $(RUN) tools/benchmark.py
# Options of all calls of the runner, and of those without a suite file.
COMMON = --out "$(OUT)" $(if $(DATA),--data "$(DATA)") $(if $(NUM_GPUS),--num-gpus $(NUM_GPUS)) \
	$(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds "$(SEEDS)")
ONE = --preset $(PRESET) --epochs $(EPOCHS) --follow $(COMMON)
EVAL = $(BENCHMARK) --only eval $(if $(BACKBONE),--backbone "$(BACKBONE)",--methods "$(METHOD)") $(ONE)
SUITE_RUN = $(BENCHMARK) "$(SUITE)" $(if $(METHODS),--methods "$(METHODS)") \
	$(if $(TASKS),--tasks "$(TASKS)") $(COMMON) $(ARGS)

# The name of the stamp contains a checksum of the set-up's inputs, so that a change repeats it.
SETUP_PYTHON := $(firstword $(wildcard $(VENV)/bin/python) $(PYTHON))
SETUP_FROM := constraints.txt pyproject.toml tools/provide_detectron2.py
SETUP_KEY := $(shell { $(SETUP_PYTHON) -V; cat $(SETUP_FROM); } 2>&1 | cksum | tr -dc '0-9')
STAMP := $(VENV)/.setup-$(SETUP_KEY)
# The tested versions, but not in an environment of your own: what is installed there stays.
PINS = $$(test -e $(VENV)/.made-here && echo "-c constraints.txt")

.PHONY: help setup demo data pretrain eval-coco eval-coco-c4 eval-voc eval-cityscapes eval-cls eval-all \
	benchmark plan report figures convert gpu-check check test test-all docs release clean

help: ## list targets and variables
	@echo "Targets:"
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F'|' '{ printf "  %-16s %s\n", $$1, $$2 }'
	@echo "Variables (now):"
	@echo "    PRESET=$(PRESET)   quick: on generated scenes; onegpu: a day on one GPU; paper: published recipes"
	@echo "    METHOD=$(METHOD)     one of: $(patsubst pretrain/configs/%_quick.yaml,%,$(wildcard pretrain/configs/*_quick.yaml)); to evaluate: random"
	@echo "    EPOCHS=$(EPOCHS)     of the published recipes: 400 or 800"
	@echo "    SEED=$(SEED)         of every random choice; SEEDS=0,1,2 evaluates with each of them"
	@echo "    DATA=$(DATA)   root of the datasets; unless quick, DETECTRON2_DATASETS"
	@echo "    OUT=$(OUT)     folder of all runs    NUM_GPUS=$(NUM_GPUS) processes per run, one per GPU"
	@echo "    METHODS= TASKS= SEEDS=…   of benchmark, instead of those of SUITE=$(SUITE)"
	@echo "    BACKBONE=…     another backbone file to evaluate"
	@echo "    ARGS=…         appended: 'KEY VALUE' of the config, or options of the tool"
	@echo "    VENV=$(VENV)     may be an environment of your own: what is installed there is kept"

setup: $(STAMP) ## make .venv with the tested versions, Detectron2 and this project
	@$(if $(filter 0,$(MAKELEVEL)),echo "setup: $(VENV) is up to date",:)

$(STAMP):
	@command -v $(SETUP_PYTHON) >/dev/null || { \
	  echo "error: $(SETUP_PYTHON) is not installed. Install Python 3.10 or newer, or use make PYTHON=…" >&2; exit 2; }
	@$(SETUP_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: $$($(SETUP_PYTHON) -V 2>&1) is too old: Python 3.10 or newer is needed." \
	    "Use make PYTHON=python3.11 or similar (and remove $(VENV) if it was made with the old one)." >&2; exit 2; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || { echo "setup [1/4] $(VENV), with $$($(PYTHON) -V)"; $(PYTHON) -m venv $(VENV) && touch $(VENV)/.made-here; }
	@echo "setup [2/4] torch and torchvision (large: minutes if they are not cached)"
	@$(RUN) -m pip install -q $(PINS) torch torchvision
	@echo "setup [3/4] this project, editable, and its dependencies" && $(RUN) -m pip install -q $(PINS) -e '.[dev]'
	@echo "setup [4/4] Detectron2" && $(RUN) tools/provide_detectron2.py $(PINS)
	@rm -f $(VENV)/.setup-* && touch $@

demo: setup ## scenes, pretraining, probes and Mask R-CNN of it and of random weights, the report
	$(BENCHMARK) --methods "$(METHOD) random" --tasks demo --jobs 2 $(ONE) $(ARGS)

data: setup ## PRESET=quick: generate the scenes; else check and prepare the datasets
	$(if $(filter quick,$(PRESET)),$(RUN) tools/make_scenes.py --root "$(DATA)", \
	  DETECTRON2_DATASETS="$(DATA)" $(RUN) tools/prepare_data.py) $(ARGS)

pretrain: setup ## pretrain a backbone with METHOD; resumes an interrupted run
	$(BENCHMARK) --only pretrain --methods "$(METHOD)" $(ONE) $(ARGS)

eval-coco eval-coco-c4 eval-voc eval-cityscapes eval-cls eval-all: eval-%: setup
	$(EVAL) --tasks $* $(ARGS)
eval-coco: ## fine-tune and evaluate Mask R-CNN FPN on COCO from METHOD's backbone
eval-coco-c4: ## … Mask R-CNN C4 on COCO
eval-voc: ## … Faster R-CNN C4 on VOC07+12
eval-cityscapes: ## … PSPNet and PSANet on Cityscapes
eval-cls: ## … classifiers on VOC2007 and small datasets
eval-all: ## all of these

benchmark: setup ## METHODS × TASKS × SEEDS, or a SUITE: what is not finished yet, and the report
	$(SUITE_RUN)

plan: setup ## what benchmark would run, and its cost: GPU-hours, memory, disk
	$(SUITE_RUN) --dry-run

report: setup ## tables and plots of every result of this PRESET
	$(RUN) tools/report.py "$(OUT)/$(PRESET)" --out "$(OUT)/$(PRESET)/report" $(ARGS)

figures: setup ## Figures 3 to 5 of the paper, of METHOD's finished runs of this PRESET
	DETECTRON2_DATASETS="$(DATA)" $(RUN) tools/figures.py "$(OUT)/$(PRESET)" --method "$(METHOD)" $(ARGS)

convert: setup ## make a backbone file of any ResNet checkpoint or URL: SRC=… [DST=…]
	$(RUN) tools/convert.py $(if $(SRC),"$(SRC)") $(if $(DST),"$(DST)") $(ARGS)

gpu-check: setup ## check GPUs, kernels and connections in five minutes, before a long run
	$(RUN) tools/gpu_check.py --out "$(OUT)/gpu_check.json" $(ARGS)

check: setup ## format, lint and types
	$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy

# Two processes of one thread each take nearly half the time on two cores.
test test-all: setup
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadscope $(if $(filter test,$@),-m "not full") $(ARGS)
test: ## the fast tests
test-all: ## every test that this machine can run

docs: setup ## the site of docs/, in site/
	$(RUN) -m pip install -q $(PINS) -e '.[docs]' && $(RUN) -m mkdocs build --strict

release: setup ## build the packages of the commit, check, install and run them; uploads nothing
	PYTHON="$(abspath $(RUN))" bash .ci/release

clean: ## remove caches, packages and the site; keeps .venv, datasets and results
	rm -rf .mypy_cache .ruff_cache .pytest_cache build dist site
	find mls_d2 pretrain tools tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
