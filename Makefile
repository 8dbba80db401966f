# Every target sets up first what it needs. `make` alone lists the targets and the variables.

SHELL := bash
PYTHON ?= python3
VENV ?= .venv
PRESET ?= quick
METHOD ?= mls
EPOCHS ?= 400
SEED ?= 0
SEEDS ?=
OUT ?= output
NUM_GPUS ?=
ARGS ?=

KNOWN_METHODS := $(patsubst pretrain/configs/%_quick.yaml,%,$(wildcard pretrain/configs/*_quick.yaml))
RUN := $(VENV)/bin/python

# $(call one-of,NAME,values): stops at once where variable NAME is not one of the values
one-of = $(if $(and $(filter 1,$(words $($(1)))),$(filter $(2),$($(1)))),,\
	$(error $(1)=$($(1)) is not known here. Valid: $(sort $(2))))

$(call one-of,PRESET,quick paper)
$(call one-of,EPOCHS,400 800)
ifneq ($(filter pretrain demo,$(MAKECMDGOALS)),)
  $(call one-of,METHOD,$(KNOWN_METHODS))
else
  $(call one-of,METHOD,$(KNOWN_METHODS) random)
endif

ifeq ($(PRESET),quick)
  DATA ?= datasets/scenes
  PRETRAIN_CONFIG := pretrain/configs/$(METHOD)_quick.yaml
else
  DATA ?= $(DETECTRON2_DATASETS)
  PRETRAIN_CONFIG := pretrain/configs/$(METHOD)_coco_$(EPOCHS)ep.yaml
endif

# What each evaluation fine-tunes: folder of the results:config below transfer_configs.
EVALS := coco coco-c4 voc cityscapes cls
ifeq ($(PRESET),quick)
  RUNS_coco := coco:coco/mask_rcnn_R_50_FPN_quick
  RUNS_coco-c4 := coco-c4:coco/mask_rcnn_R_50_C4_quick
  RUNS_voc := voc:voc/faster_rcnn_R_50_C4_quick
  RUNS_cityscapes := $(foreach net,pspnet psanet,cityscapes-$(net):cityscapes/$(net)_R_50_quick)
  CLS := voc2007_finetune voc2007_svm voc2007_knn scenes_objects_finetune
  RUNS_cls := $(foreach name,$(CLS),cls-$(name):classification/$(name)_quick)
  # Scenes beyond those that pretraining and COCO need; drawn when they are first asked for.
  SCENES_voc := --voc 200
  SCENES_cls := --voc 200
  SCENES_cityscapes := --cityscapes 200
else
  RUNS_coco := coco:coco/mask_rcnn_R_50_FPN_1x
  RUNS_coco-c4 := coco-c4:coco/mask_rcnn_R_50_C4_1x
  RUNS_voc := voc:voc/faster_rcnn_R_50_C4_24k
  RUNS_cityscapes := $(foreach net,pspnet psanet,cityscapes-$(net):cityscapes/$(net)_R_50_40k)
  CLS := voc2007 cub200 flowers102 cars aircraft indoor67 pets dtd
  RUNS_cls := $(foreach name,$(CLS),cls-$(name):classification/$(name)_finetune)
  # As many runs as the paper's numbers are means of.
  SEEDS_voc := 0,1,2
  SEEDS_cityscapes := 0,1
endif

RESULTS := $(OUT)/$(PRESET)
RUN_NAME := $(METHOD)$(if $(filter paper-800,$(PRESET)-$(EPOCHS)),-800ep)
PRETRAIN_DIR := $(RESULTS)/$(RUN_NAME)
BACKBONE ?= $(if $(filter random,$(METHOD)),random,$(PRETRAIN_DIR)/backbone.pth)
GPUS := $(if $(NUM_GPUS),--num-gpus $(NUM_GPUS))
# $(call gpus-of,RUN): on more than its 4 GPUs the Cityscapes recipe would be cut short by the scaling rule.
gpus-of = $(if $(and $(filter cityscapes%,$(1)),$(filter 5 6 7 8,$(NUM_GPUS))),--num-gpus 4,$(GPUS))
WITH_DATA := DETECTRON2_DATASETS="$(abspath $(DATA))"

# $(call seeds-of,EVAL): SEEDS or SEED where they are given, else the paper's
COMMA := ,
seeds-of = $(subst $(COMMA), ,$(or $(SEEDS),$(if $(filter file,$(origin SEED)),$(SEEDS_$(1))),$(SEED)))
# $(call folder-of,RUN,SEED)
folder-of = $(RESULTS)/$(firstword $(subst :, ,$(1)))/$(RUN_NAME)-seed$(2)
# $(call fine-tune,RUN,SEED): one line of a recipe
define fine-tune
$(WITH_DATA) $(RUN) tools/train_net.py --config-file transfer_configs/$(lastword $(subst :, ,$(1))).yaml \
  --resume $(call gpus-of,$(1)) MODEL.WEIGHTS $(BACKBONE) OUTPUT_DIR $(call folder-of,$(1),$(2)) SEED $(2) $(ARGS)

endef
# $(call each-run,EVAL,FUNCTION): FUNCTION(RUN,SEED) for all of them
each-run = $(foreach run,$(RUNS_$(1)),$(foreach seed,$(call seeds-of,$(1)),$(call $(2),$(run),$(seed))))

# The stamp's name carries what the set-up is made from, so that it is repeated when that changes.
SETUP_PYTHON := $(firstword $(wildcard $(VENV)/bin/python) $(PYTHON))
SETUP_FROM := constraints.txt pyproject.toml tools/provide_detectron2.py
SETUP_KEY := $(shell { $(SETUP_PYTHON) -V; cat $(SETUP_FROM); } 2>&1 | cksum | tr -dc '0-9')
STAMP := $(VENV)/.setup-$(SETUP_KEY)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Each target's steps come one after the other, but for the two that the demo runs side by side.
ifeq ($(filter demo-method,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif
.PHONY: help setup demo demo-method demo-random data require-data require-gpu require-backbone \
	pretrain $(EVALS:%=eval-%) $(EVALS:%=scenes-%) eval-all convert report benchmark bench-step check test clean

help: ## list targets and variables
	@echo "Targets:"
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F'|' '{ printf "  %-16s %s\n", $$1, $$2 }'
	@echo "Variables (now):"
	@echo "    PRESET=$(PRESET)   quick: small, on generated scenes; paper: the published recipes on real data"
	@echo "    METHOD=$(METHOD)     one of: $(KNOWN_METHODS); for evaluations also: random"
	@echo "    EPOCHS=$(EPOCHS)     of PRESET=paper: 400 or 800"
	@echo "    SEED=$(SEED)         of every random choice; SEEDS=0,1,2 evaluates with each of them"
	@echo "    DATA=$(DATA)   datasets' root; PRESET=paper takes DETECTRON2_DATASETS"
	@echo "    OUT=$(OUT)     where runs write    NUM_GPUS=$(NUM_GPUS) processes, one a GPU"
	@echo "    METHODS= TASKS= SEEDS=…   of benchmark, instead of those of SUITE=$(SUITE)"
	@echo "    BACKBONE=…     another backbone file to evaluate"
	@echo "    ARGS=…         appended: 'KEY VALUE' of the config, or options of pytest for test"
	@echo "    VENV=$(VENV)     an environment of your own may stand here; its Detectron2 is kept"

setup: $(STAMP) ## make .venv with the tested versions, Detectron2 and this project
	@$(if $(filter 0,$(MAKELEVEL)),echo "setup: $(VENV) is up to date",:)

$(STAMP):
	@command -v $(SETUP_PYTHON) >/dev/null || { \
	  echo "error: $(SETUP_PYTHON) is not there. Install Python 3.10 or newer, or say make PYTHON=…" >&2; exit 2; }
	@$(SETUP_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: $$($(SETUP_PYTHON) -V 2>&1) is too old: Python 3.10 or newer is needed." \
	    "Say make PYTHON=python3.11 or the like (and remove $(VENV) if it was made with the old one)." >&2; exit 2; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || { echo "setup [1/4] $(VENV), with $$($(PYTHON) -V)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup [2/4] torch and torchvision (large; minutes where they are not cached)"
	@$(RUN) -m pip install -q -c constraints.txt torch torchvision
	@echo "setup [3/4] this project, editable, and what it depends on"
	@$(RUN) -m pip install -q -c constraints.txt -e '.[dev]'
	@echo "setup [4/4] Detectron2"
	@$(RUN) tools/provide_detectron2.py --constraint constraints.txt
	@rm -f $(VENV)/.setup-*
	@touch $@

demo: setup ## scenes, pretraining, Mask R-CNN from it and from random weights, the report
	@$(MAKE) --no-print-directory data
	@$(MAKE) --no-print-directory pretrain
	@$(MAKE) --no-print-directory $(if $(filter quick,$(PRESET)),-j2) demo-method demo-random
	@$(MAKE) --no-print-directory report ARGS=

# The quick ones run side by side, each on half of the cores: together that takes two thirds of the
# time. Their lines are told apart by what comes first; the reader of the lines outlives Ctrl-C.
HALF := $$(( ($$(getconf _NPROCESSORS_ONLN) + 1) / 2 ))
beside = +@$(if $(filter quick,$(PRESET)),export OMP_NUM_THREADS=$(HALF);) set -o pipefail; \
	$(MAKE) --no-print-directory eval-coco METHOD=$(1) $(2) 2>&1 \
	  | (trap '' INT TERM; while IFS= read -r line; do echo "$(1): $$line"; done)

demo-method:
	$(call beside,$(METHOD))

demo-random:
	$(call beside,random,BACKBONE=random)

ifeq ($(PRESET),quick)
data: setup ## PRESET=quick: generate the scenes; PRESET=paper: check and prepare the datasets
	$(RUN) tools/make_scenes.py --root $(DATA)

require-data: setup
	@[ -e "$(DATA)/scenes.json" ] || { \
	  echo "error: there are no scenes in '$(DATA)'. Make them with: make data" >&2; exit 2; }

$(EVALS:%=scenes-%): scenes-%: require-data
	$(if $(SCENES_$*),$(RUN) tools/make_scenes.py --root $(DATA) --train 0 --val 0 --unlabeled 0 $(SCENES_$*))

require-gpu:
else
data: require-data
	$(WITH_DATA) $(RUN) tools/prepare_data.py $(ARGS)

require-data: setup
	@[ -n "$(DATA)" ] && [ -d "$(DATA)" ] || { \
	  echo "error: PRESET=paper needs the real datasets, and '$(DATA)' is not a folder." \
	    "Set DETECTRON2_DATASETS to the folder that holds coco/, VOC2007/, …: docs/datasets.md" >&2; exit 2; }

$(EVALS:%=scenes-%): scenes-%: require-data

# Who asks for the CPU gets it.
require-gpu: setup
	@$(if $(findstring MODEL.DEVICE cpu,$(ARGS)),:,$(RUN) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
	  echo "error: PRESET=paper is for 8 GPUs, and PyTorch finds none here." \
	    "What a CPU finishes in minutes is: make $(MAKECMDGOALS) PRESET=quick" >&2; exit 2; })
endif

pretrain: setup require-data require-gpu ## learn a backbone with METHOD; resumes what was interrupted
	$(WITH_DATA) $(RUN) tools/pretrain.py --config-file $(PRETRAIN_CONFIG) --resume $(GPUS) \
	  OUTPUT_DIR $(PRETRAIN_DIR) SEED $(SEED) $(ARGS)

require-backbone:
	@[ "$(BACKBONE)" = random ] || [ -e "$(BACKBONE)" ] || { \
	  echo "error: there is no backbone '$(BACKBONE)'." \
	    "Make it with: make pretrain METHOD=$(METHOD) PRESET=$(PRESET)" >&2; exit 2; }

eval-coco: ## fine-tune and evaluate Mask R-CNN FPN on COCO from METHOD's backbone
eval-coco-c4: ## … Mask R-CNN C4 on COCO
eval-voc: ## … Faster R-CNN C4 on VOC07+12
eval-cityscapes: ## … PSPNet and PSANet on Cityscapes
eval-cls: ## … classifiers on VOC2007 and small datasets
eval-all: $(EVALS:%=eval-%) ## all of these

# A run that was finished is not repeated, and one that was interrupted goes on.
$(EVALS:%=eval-%): eval-%: setup require-gpu scenes-% require-backbone
	$(call each-run,$*,fine-tune)
	@$(RUN) tools/report.py --summary $(strip $(call each-run,$*,folder-of))

convert: setup ## make a backbone file of any ResNet checkpoint or URL: SRC=… [DST=…]
	@[ -n "$(SRC)" ] || { \
	  echo "error: say make convert SRC=checkpoint [DST=backbone.pth]" >&2; exit 2; }
	$(RUN) tools/convert.py "$(SRC)" $(if $(DST),"$(DST)") $(ARGS)

report: setup ## tables and plots of every result of this PRESET
	$(RUN) tools/report.py $(RESULTS) --out $(RESULTS)/report $(ARGS)

# What the command line says stands in place of the suite's own; other values of these are not for it.
given = $(if $(filter command,$(firstword $(origin $(1)))),$(2) "$($(1))")
SUITE ?= suites/$(if $(filter quick,$(PRESET)),quick,paper_table1).yaml
SELECTED := $(call given,METHODS,--methods) $(call given,TASKS,--tasks) $(call given,SEEDS,--seeds)

# PRESET=quick: the scenes that those tasks see beside COCO's.
TASKS_SEEN := $(or $(TASKS),voc)
BENCHMARK_SCENES := $(if $(filter voc% cls scenes%,$(TASKS_SEEN)),$(SCENES_voc)) \
	$(if $(filter cityscapes%,$(TASKS_SEEN)),$(SCENES_cityscapes))

benchmark: setup $(if $(filter paper,$(PRESET)),require-data) ## METHODS × TASKS × SEEDS, or a SUITE: what is not finished yet, and the report
	$(if $(filter quick,$(PRESET)),$(RUN) tools/make_scenes.py --root $(DATA) $(strip $(BENCHMARK_SCENES)))
	$(WITH_DATA) $(RUN) tools/benchmark.py $(SUITE) $(strip $(SELECTED)) --out $(OUT)/benchmark \
	  $(GPUS) $(ARGS)

bench-step: setup ## what a pretraining step of each method costs
	$(RUN) benchmarks/pretrain_step.py $(ARGS)

check: setup ## format, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Two processes of one thread each: nearly half the time on two cores.
test: setup ## every test that this machine can run
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadscope $(ARGS)

clean: ## remove caches; keeps .venv, datasets and results
	rm -rf .mypy_cache .ruff_cache .pytest_cache build dist
	find mls_d2 pretrain tools tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
