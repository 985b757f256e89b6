#!/usr/bin/env bash
# scripts/checks/slurm.sh [READS NUCLEOTIDE_MODEL PROTEIN_MODEL CLASSIFIER]: docs/slurm.md, tried on this machine.
#
# With vpdist's environment active, as root, as Slurm's daemons need it there. Where Debian's slurm-wlm and munge are
# missing they are installed; where that cannot be done the check is skipped, which is told, and ends with 0.
#
# The daemons and the job's script are those of the document, the script with two ranks on one node. One job is stopped as
# soon as its step has begun, before there is a run, and again once there is a part; another by Slurm itself, before its
# time limit. Each time the job has to be queued again; in the end it has to finish with the tables of `srun -n 2 vpdist`,
# which nothing disturbs. READS should keep two ranks busy for a minute and a half, or a signal comes too late, which is an
# error. Without arguments, a synthetic sample and random encoders do. Then the array of docs/many-jobs.md reads a manifest
# in shards, one task being stopped, and `vpdist merge` has to make the tables of one run of that manifest.
set -euo pipefail
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
document=$root/docs/slurm.md array=$root/docs/many-jobs.md

block() { # the first block after a line that begins with $1, in $2, by default docs/slurm.md
    awk -v start="$1" 'index($0, start) == 1 {on = 1} on && /^```$/ {exit} on && inside {print} on && /^```bash$/ {inside = 1}' \
        "${2:-$document}"
}
skip() {
    echo "skipped: $*"
    exit 0
}
missing() { ! command -v sbatch slurmctld slurmd munged > /dev/null; }

[ "$(id -u)" = 0 ] || skip "Slurm's daemons need root"
if missing; then
    command -v apt-get > /dev/null || skip "sbatch, slurmctld, slurmd or munged is missing, and there is no apt-get"
    echo "installing slurm-wlm and munge"
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends slurm-wlm munge ||
        skip "slurm-wlm and munge could not be installed"
    ! missing || skip "slurm-wlm and munge are installed, but a command of them is not on PATH"
fi
for command in vpdist torchrun; do
    command -v "$command" > /dev/null || { echo "$command is not on PATH" >&2; exit 1; }
done
[ $# = 0 ] || [ $# = 4 ] || { echo "usage: $0 [READS NUCLEOTIDE_MODEL PROTEIN_MODEL CLASSIFIER]" >&2; exit 1; }

seconds() { date +%s; }
began=$(seconds)
say() { echo "$(($(seconds) - began)) s: $*"; }

eval "$(block '## Trying it')" # starts the daemons
trap 'kill "$slurmd" "$slurmctld" "$munged"; wait; rm -rf "$slurm"' EXIT
say "$(sinfo --version) answers"

if [ $# = 0 ]; then
    (cd "$root" && python -m scripts.demo.make_sample "$slurm/sample" --contigs 4000 --reads 10000 &&
        python -m scripts.demo.make_models "$slurm/models" --nucleotide 6x192 --protein 6x128 &&
        python -c "from pathlib import Path; from scripts.demo.make_models import make_classifier
make_classifier(Path('$slurm/classifier.safetensors'), Path('$slurm/models'), 64)")
    set -- "$slurm/sample/sample.fa.gz" "$slurm/models/dnabert-s" "$slurm/models/esm-2" "$slurm/classifier.safetensors"
fi
reads=$(realpath "$1") nucleotide=$(realpath "$2") protein=$(realpath "$3") classifier=$(realpath "$4")

until_true() { # wait until a command succeeds, for an hour at most
    for _ in $(seq 18000); do
        if "$@"; then return; fi
        sleep 0.2
    done
    fail "waited in vain: $*"
}
job='' run=''
fail() {
    echo "$*" >&2
    cat "$slurm/$run.out" >&2
    echo "what Slurm says of its last job:" >&2
    scontrol --oneliner show job "$job" >&2 || true
    grep -wE "JobId=$job|error" "$slurm/slurmctld.log" | tail -n 30 >&2 || true
    grep -wE "[Jj]ob $job|JobId=$job|error" "$slurm/slurmd.log" | tail -n 30 >&2 || true
    exit 1
}
parts() { find "$slurm/$run/parts" -name 'unit-*.h5' 2> /dev/null | wc -l; }
has_step() { squeue -h -s -j "$job" | grep -q "$job\.0"; }
has_part() {
    ! ended || fail "the job has ended too soon"
    [ "$(parts)" -gt 0 ]
}
told() { scontrol show job "$job" | grep -o "$1=[^ ]*" | head -n 1 | cut -d= -f2; }
queued_again() { # the job waits, and this is its restart number $1
    [ "$(told JobState)" = PENDING ] && [ "$(told Restarts)" = "$1" ]
}
ended() { scontrol show job "$job" | grep -qE 'JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)'; }
waits_or_ended() { ended || { [ "$(told JobState)" = PENDING ] && [ "$(told Restarts)" -gt "$restarts" ]; }; }
script_lives() { pgrep -f "slurmstepd: \[$(scontrol show job "$1" | grep -o 'JobId=[0-9]*' | head -n 1 | cut -d= -f2)\.batch\]" > /dev/null; }
script_gone() { ! script_lives "$1"; }
start_now() { # else job $1 waits for two minutes, which Slurm needs for two things that are waited for here:
    until_true script_gone "$1" # the end of its last script is told to slurmctld, which else takes it for that of the new one
    sleep 2 # and the new credential is of a later second than the revoked one, or slurmd refuses it and the job has failed
    scontrol update JobId="$1" StartTime=now
}

script() { # the document's, with run folder $run; further arguments are sed's
    block '# vpdist on Slurm' | sed -e 's/--nodes=2/--nodes=1/' -e '/--gpus-per-node/d' -e 's/cpus-per-task=32/cpus-per-task=2/' \
        -e "s|reads=reads.fa.gz|reads='$reads'|" -e "s|--nproc-per-node=8|--nproc-per-node=2|" \
        -e "s|zhihan1996/DNABERT-S|'$nucleotide'|" -e "s|facebook/esm2_t36_3B_UR50D|'$protein'|" \
        -e "s|classifier.safetensors|'$classifier'|" -e "s|^run=run |run=$run |" "$@"
}
completed() {
    [ "$(told JobState)" = COMPLETED ] || fail "$run: the job has ended as $(told JobState)"
    vpdist verify "$run"
    say "$run: completed after $(told Restarts) restart(s), $(parts) parts"
}

cd "$slurm"
run=signalled
script > signalled.sh
job=$(sbatch --parsable --output=signalled.out signalled.sh)
restarts=0
for condition in has_step has_part; do
    until_true "$condition"
    say "$run: SIGUSR1 at $condition, $([ -e "$run/status.json" ] && echo "the run has begun" || echo "before the run has begun")"
    scancel --batch --signal=USR1 "$job"
    restarts=$((restarts + 1))
    until_true queued_again "$restarts"
    say "$run: queued again, $(parts) parts"
    start_now "$job"
done
until_true ended
completed

run=limited
script -e 's/--time=12:00:00/--time=2/' -e 's/B:USR1@120/B:USR1@60/' > limited.sh
job=$(sbatch --parsable --output=limited.out limited.sh)
restarts=0
while true; do
    until_true waits_or_ended
    ! ended || break
    restarts=$(told Restarts)
    say "$run: stopped before its limit of two minutes, queued again, $(parts) parts"
    start_now "$job"
done
[ "$restarts" -gt 0 ] || fail "$run: it has ended before Slurm stopped it: READS is too small for this machine"
completed

run=undisturbed
srun -n 2 vpdist predict "$reads" -o undisturbed --nucleotide-model "$nucleotide" --protein-model "$protein" \
    --classifier "$classifier" --offline --progress log > undisturbed.out 2>&1 || fail "the undisturbed run has failed"
say "$run: completed"
for disturbed in signalled limited; do
    for table in sequences chunks fragments; do
        cmp "$disturbed/$table.tsv" "undisturbed/$table.tsv"
    done
    say "$disturbed: equal tables"
done

# The array: seven objects of a synthetic sample of their own, read by three tasks. A task has one core, and so one thread per
# rank, on which the last bits depend; so has the run of the whole.
(cd "$root" && python -m scripts.demo.make_sample "$slurm/objects" --contigs 700 --reads 0)
printf 'path\n' > manifest.tsv
gunzip -c objects/sample.fa.gz | awk '/^>/ {n++} {print > ("object-" n % 7 ".fa")}'
for number in 0 1 2 3 4 5 6; do echo "object-$number.fa"; done >> manifest.tsv
block '## A Slurm array' "$array" | sed -e 's/--array=1-7/--array=1-3/' -e '/--gpus-per-node/d' -e 's/cpus-per-task=8/cpus-per-task=1/' \
    -e 's/^n=7/n=3/' -e 's/virnucpro-500/mini/' > array.sh
run=array
job=$(sbatch --parsable --output='array-%a.out' array.sh)
cat > array.out <<< "see array-*.out"
tasks() { squeue -h -r -j "$job" -o '%i %T' 2> /dev/null; }
task_runs() { tasks | grep -q "^${job}_1 RUNNING"; }
task_waits() { [[ $(scontrol show job "${job}_1") =~ JobState=PENDING.*Restarts=1\  ]]; }
array_ended() { ! tasks | grep -qE 'PENDING|RUNNING|COMPLETING'; }
until_true task_runs
until_true test -s array-1.out # vpdist has said that it starts
scancel --batch --signal=USR1 "${job}_1"
until_true task_waits
say "$run: task 1 of 3 told to stop as it begins: queued again"
start_now "${job}_1"
until_true array_ended
for task in 1 2 3; do vpdist verify "run-$task"; done
vpdist merge run-1 run-2 run-3 -o merged > merge.out 2>&1 || { cat merge.out; fail "$run: the merge has failed"; }
vpdist predict --manifest manifest.tsv -o whole --model mini --offline --nproc 1 --threads 1 --progress none > whole.out 2>&1 ||
    { cat whole.out; fail "$run: the run of the whole manifest has failed"; }
for table in sequences chunks fragments; do
    cmp "merged/$table.tsv" "whole/$table.tsv"
done
say "$run: 3 tasks completed, merged; equal tables"
