# Everything is set up on first use and only then. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

BIN := $(VENV)/bin
# Each target installs what it needs and no more; a stamp says which extras are there.
RUN := $(VENV)/.run
LAB := $(VENV)/.lab
STAMP := $(VENV)/.dev
PAGE := $(VENV)/.page
NOTEBOOKS := $(wildcard notebooks/[0-9]*.ipynb)
# Nothing in these is random or timed: every output has to be the stored one.
STRICT := notebooks/01_hrf_and_glm.ipynb
BROWSER := tests/test_browser_lab.py
NBVAL := -p no:randomly --nbval-current-env --nbval-cell-timeout=300

.DEFAULT_GOAL := help
.PHONY: help setup run quick test browser lint notebooks outputs lab colab assignments train bench \
    versions clean strict site

help:            ## list the targets
	@sed -n 's/^\([a-z]*\): .*## /  make \1\t/p' Makefile | expand -t 20

setup: $(STAMP)  ## create .venv with all that the targets below need

$(RUN): EXTRAS :=
$(LAB): EXTRAS := [notebooks,neuro]
$(PAGE): EXTRAS := [site]
$(STAMP): EXTRAS := [dev]
$(RUN) $(LAB) $(PAGE) $(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".$(EXTRAS)"
	touch $(RUN) $@ $(if $(filter $(STAMP),$@),$(LAB) $(PAGE))

run: $(RUN)      ## the main job: simulate, estimate betas, reconstruct, score; see results/
	$(BIN)/python -m recon_lib run

quick: lint      ## what finishes in two minutes: style, spelling, types and the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadscope $(NBVAL) \
	    -m "not slow" --ignore=$(BROWSER) tests

test: lint strict browser  ## style, spelling, unit tests and every notebook
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadscope $(NBVAL) --nbval-lax \
	    --ignore=$(BROWSER) tests $(filter-out $(STRICT),$(NOTEBOOKS))

browser: $(STAMP)  ## the explorers in a real JupyterLab and Chromium, with the machine to itself
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(NBVAL) $(BROWSER)

strict: $(STAMP) ## notebooks in which nothing is random, every output compared
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(NBVAL) --nbval $(STRICT)

lint: $(STAMP)   ## style, spelling and types only
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy

notebooks: $(STAMP)  ## execute the series and render it to build/html/index.html
	$(BIN)/python notebooks/_render.py

site: $(PAGE)    ## the course as a web page, from the stored outputs: build/site/index.html
	$(BIN)/python notebooks/_site.py

outputs: $(STAMP)    ## execute the series and store the outputs in notebooks/ (for authors)
	$(BIN)/python notebooks/_render.py --store

lab: $(LAB)      ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks

assignments: $(STAMP)  ## build the assignments for students and teachers (COURSE=folder)
	$(BIN)/python notebooks/assignments/_build.py $(if $(COURSE),"$(COURSE)")

colab: $(STAMP)  ## run notebooks (ONLY="notebooks/09_real_data.ipynb") as a fresh Colab session would
	$(BIN)/python notebooks/_colab.py $(ONLY)

train: $(RUN)    ## train every network from scratch (hours); see recon_lib/recipes.py
	$(BIN)/python -m recon_lib simulate
	$(BIN)/python -m recon_lib betas
	$(BIN)/python -m recon_lib train features
	$(BIN)/python -m recon_lib train guidance
	$(BIN)/python -m recon_lib train unconditional
	$(BIN)/python -m recon_lib train conditional \
	    --start results/unconditional/model.safetensors
	cp results/guidance/model.safetensors results/conditional/guidance.safetensors
	$(BIN)/python -m recon_lib train student --teacher results/conditional/model.safetensors

bench: $(VENV)/.bench  ## run every benchmark (an hour or so): one table and build/bench.json
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/_gather.py

$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	touch $@

versions:        ## unit tests on the lowest versions allowed, and on the newest for Python 3.11 and 3.13
	mkdir -p build
	$(PYTHON) .ci/lowest.py > build/lowest.txt
	$(MAKE) --no-print-directory build/versions/lowest/tested PYTHON=python3.11 \
	    PIP_CONSTRAINT=build/lowest.txt
	$(MAKE) --no-print-directory build/versions/3.11/tested PYTHON=python3.11
	$(MAKE) --no-print-directory build/versions/3.13/tested PYTHON=python3.13

build/versions/%/tested: pyproject.toml $(wildcard recon_lib/*.py recon_lib/*/*.py tests/*.py)
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --editable ".[dev]"
	OMP_NUM_THREADS=1 $(@D)/bin/python -m pytest -n $(JOBS) --dist loadscope -p no:randomly tests
	touch $@

clean:           ## remove what the targets made, but not the set-up
	rm -rf build results .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
