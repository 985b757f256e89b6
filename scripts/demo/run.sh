#!/usr/bin/env bash
# `make demo`: try vpdist on a synthetic sample. Everything is written to demo/, which is removed first.
# The encoders of the first part are random, their classifier has seen synthetic organisms only: for trying out, not for
# real sequences. The second part runs the built-in model, on real contigs too where there are labelled ones.
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
run vpdist train --virus demo/sample/virus.fa --other demo/sample/other.fa -o demo/model --nproc 2 "${models[@]}" \
    --optimizer adamw --learning-rate 0.003 --weight-decay 0.1 --batch-size 256 --epochs 15 \
    --description "Fitted on synthetic organisms: for trying out only."
run torchrun --standalone --nproc-per-node=2 -m vpdist predict demo/sample/sample.fa.gz -o demo/run \
    --model demo/model
run python -m scripts.demo.show demo/run demo/sample/truth.tsv
echo
echo "The built-in model, mini, knows real viruses and none of these invented ones: its calls of them mean little, and it warns."
run vpdist predict demo/sample/sample.fa.gz -o demo/mini --nproc 2
if [ -d ../shared/data ]; then
    echo
    echo "Real contigs of accessions that mini has not seen:"
    run python -m scripts.mini.folds ../shared/data/virus.fa.gz ../shared/data/host.fa.gz --fold 0 --into demo/contigs
    run python -m scripts.mini.judge --virus demo/contigs/virus.fold-0.fa --other demo/contigs/host.fold-0.fa --model mini
fi
