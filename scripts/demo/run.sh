#!/usr/bin/env bash
# `make demo`: try vpdist on a synthetic sample. Everything is written to demo/, which is removed first.
# The encoders are random and the classifier has seen synthetic organisms only: for trying out, not for real sequences.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

run() {
    echo
    echo "\$ $*"
    "$@"
}

models=(--nucleotide-model demo/models/dnabert-s --protein-model demo/models/esm-2)
export OMP_NUM_THREADS=1 # vpdist sets its threads itself; this suppresses a warning of torchrun
export CUDA_VISIBLE_DEVICES= # on two CPU ranks also where there are GPUs

rm -rf demo
run python -m scripts.demo.make_sample demo/sample
run python -m scripts.demo.make_models demo/models
run vpdist embed demo/sample/virus.fa -o demo/virus --nproc 2 "${models[@]}"
run vpdist embed demo/sample/other.fa -o demo/other --nproc 2 "${models[@]}"
run python -m scripts.demo.fit_classifier demo/virus demo/other demo/classifier.safetensors
run torchrun --standalone --nproc-per-node=2 -m vpdist predict demo/sample/sample.fa.gz -o demo/run \
    "${models[@]}" --classifier demo/classifier.safetensors
run python -m scripts.demo.show demo/run demo/sample/truth.tsv
