# demo    try vpdist: sample, models, classifier, prediction on two ranks, summary (everything under demo/)
# test    the whole test suite, on CPU, files side by side; ends with its ten slowest tests
# test-quick  what starts no ranks and computes nothing for long, for daily work (some 3 minutes on two cores)
# test-faults  the long form of the fault tests: many launches with injected faults (half an hour)
# test-cuda  what needs an NVIDIA GPU; the other verbs for tests stay on the CPU where there are GPUs, too
# test-slurm  the job script of docs/slurm.md under a Slurm of this machine, about 5 minutes; needs root, installs Debian's slurm-wlm
#         and munge where they are missing, and says why where it skips
# check-workflows  what lies in workflows/, with Snakemake, miniwdl, planemo and nf-core in an environment of their own (build/workflows),
#         and the steps of the images, which install torch twice: some minutes
# release-check  whether a release can be made of this: distributions, installed and tried with each Python from 3.11 to 3.13, golden scores
# check   ruff (rules and format), mypy, oxlint (the report's JavaScript), known vulnerabilities of the pinned versions (where the network allows it)
# check-multiqc   whether MultiQC itself reads what `vpdist report --multiqc` writes; installs it as build/multiqc (1.1 GB)
# format  let ruff rewrite what it can
# bench   benchmark figures beside their goals, on the CPU, in under 10 minutes; written to bench/figures.md
# bench-large   the same for runs with a million fragments and more
# bench-display   all figures of what people look at (first sign, report, progress, time left); bench/display.md
# trust   whether the probabilities, q-values and calls of a model hold, on mixtures of genomes it has not seen; names files:
#         make trust VIRUS="v.fa.gz" OTHER="host=h.fa.gz" [SPLITS=MODEL/splits.tsv] [MODEL=mini] [UNSEEN="fungi=f.fa.gz"]
# first-gpu   what holds on the GPU of this machine: a table of verdicts in under 10 minutes, kept as bench/first-gpu.md;
#         ends at once with 2 where there is no CUDA device
# docs    the site of docs/ as build/site/index.html; warnings are errors
# clean   remove what the other verbs made, except the environment (.venv)
#
# Each verb creates the environment first if it is missing or older than pyproject.toml or constraints.txt. pip's own settings
# (PIP_INDEX_URL, PIP_FIND_LINKS, ...) say where packages come from. PYTHON=... names the interpreter to build it from.
# CONTIGS="virus.fa.gz host.fa.gz" makes `bench` and `bench-large` take their contigs from these files instead of a
# synthetic sample. ESM_CPP=PYTHON, a Python that has esm-cpp, makes `bench` compare ESM-2 with esm.cpp.

ENVIRONMENT := .venv/.installed
BIN := .venv/bin
MULTIQC := 1.35
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile
INTERPRETERS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

.PHONY: demo test test-quick test-faults test-cuda check format bench bench-large bench-display check-multiqc clean

demo: $(ENVIRONMENT)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo/run.sh

test: $(ENVIRONMENT)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations=10

test-quick: $(ENVIRONMENT)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not launcher and not slow and not faults and not cuda"

test-faults: $(ENVIRONMENT)
	$(BIN)/python -m pytest -m faults

test-cuda: $(ENVIRONMENT)
	$(BIN)/python -m pytest -m cuda

.PHONY: test-slurm
test-slurm: $(ENVIRONMENT)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/checks/slurm.sh

.PHONY: check-workflows
check-workflows: $(ENVIRONMENT) build/workflows/.installed
	$(BIN)/python -m scripts.checks.workflows

build/workflows/.installed: workflows/requirements.txt $(ENVIRONMENT)
	$(BIN)/python -m venv build/workflows
	build/workflows/bin/python -m pip install --disable-pip-version-check -r workflows/requirements.txt
	touch $@

.PHONY: release-check
release-check: $(ENVIRONMENT)
	$(BIN)/python -m scripts.release.check

check: $(ENVIRONMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/oxlint --config scripts/checks/oxlint.json --deny-warnings vpdist
	$(BIN)/python -m scripts.checks.audit_versions

check-multiqc: $(ENVIRONMENT)
	test -x build/multiqc/bin/multiqc || { $(BIN)/python -m venv build/multiqc && \
	    build/multiqc/bin/python -m pip install --disable-pip-version-check multiqc==$(MULTIQC); }
	$(BIN)/python -m scripts.checks.read_by_multiqc

format: $(ENVIRONMENT)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(ENVIRONMENT)
	$(BIN)/python -m scripts.bench.all $(if $(ESM_CPP),--esm-cpp $(ESM_CPP)) $(CONTIGS)

bench-large: $(ENVIRONMENT)
	$(BIN)/python -m scripts.bench.all --large $(CONTIGS)

bench-display: $(ENVIRONMENT)
	$(BIN)/python -m scripts.bench.display

.PHONY: trust
trust: $(ENVIRONMENT)
	$(BIN)/python -m scripts.trust.prove --virus $(VIRUS) --other $(OTHER) --model $(or $(MODEL),mini) \
	    $(if $(SPLITS),--splits $(SPLITS)) $(if $(UNSEEN),--unseen $(UNSEEN))

.PHONY: first-gpu
first-gpu: $(ENVIRONMENT)
	$(BIN)/python -m scripts.gpu.first_gpu

.PHONY: docs
docs: $(ENVIRONMENT)
	$(BIN)/python -c 'import material' 2>/dev/null || \
	    $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf demo bench build vpdist.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find vpdist tests scripts -name __pycache__ -prune -exec rm -rf {} +

$(ENVIRONMENT): pyproject.toml constraints.txt
	@test -x $(BIN)/python && exit; \
	for python in $(INTERPRETERS); do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        set -x; "$$python" -m venv .venv; exit; \
	    fi; \
	done; \
	echo "vpdist needs Python 3.11 or later with its venv module; looked for: $(INTERPRETERS)." \
	    "(Debian, Ubuntu: apt install python3.11-venv.) To name another one: make PYTHON=..." >&2; \
	exit 1
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test,check]'
	touch $@
