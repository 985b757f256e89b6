# demo    try vpdist: sample, models, classifier, prediction on two ranks, summary (everything under demo/)
# test    the whole test suite, on CPU
# check   ruff (rules and format) and mypy
# format  let ruff rewrite what it can
# bench   figures: balance of work over ranks; wall time of predict on 1 and 2 ranks, full-size random encoders
# clean   remove what the other verbs made, but for the environment (.venv)
#
# Each verb creates the environment first where it is missing or older than its lists. pip's own settings
# (PIP_INDEX_URL, PIP_FIND_LINKS, ...) say where packages come from. PYTHON=... names the interpreter to build it from.

ENVIRONMENT := .venv/.installed
BIN := .venv/bin
INTERPRETERS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

.PHONY: demo test check format bench clean

demo: $(ENVIRONMENT)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

test: $(ENVIRONMENT)
	$(BIN)/python -m pytest

check: $(ENVIRONMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(ENVIRONMENT)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(ENVIRONMENT)
	$(BIN)/python scripts/balance.py
	$(BIN)/python scripts/make_sample.py bench/sample
	$(BIN)/python scripts/make_models.py bench/models --nucleotide 12x768 --protein 12x480
	$(BIN)/python scripts/bench_predict.py bench/sample/sample.fa.gz --contigs 12 --models bench/models --work bench/runs

clean:
	rm -rf demo bench build dist vpdist.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf vpdist/__pycache__ tests/__pycache__ scripts/__pycache__

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
