#!/usr/bin/env bash
# scripts/checks/slurm.sh READS NUCLEOTIDE_MODEL PROTEIN_MODEL CLASSIFIER: docs/slurm.md, tried on this machine.
#
# As root, with slurmctld, slurmd and munged installed and vpdist's environment active. The daemons and the job's script are
# those of the document, the script with two ranks on one node. It is told to stop as Slurm would tell it: in the first
# second of the step, and once there is a part. Both times it has to be queued again; then it has to finish with the tables
# of `srun -n 2 vpdist`, which nothing disturbs. READS should keep two ranks busy for half a minute, or the second signal
# comes too late, which is an error.
set -euo pipefail
document=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../docs/slurm.md")
reads=$(realpath "$1") nucleotide=$(realpath "$2") protein=$(realpath "$3") classifier=$(realpath "$4")

block() { # the first block after a line that begins with $1
    awk -v start="$1" 'index($0, start) == 1 {on = 1} on && /^```$/ {exit} on && inside {print} on && /^```bash$/ {inside = 1}' \
        "$document"
}

for command in vpdist torchrun sbatch slurmctld slurmd munged; do
    command -v "$command" > /dev/null || { echo "$command is not on PATH" >&2; exit 1; }
done
eval "$(block '## Trying it')" # starts the daemons
trap 'kill "$slurmd" "$slurmctld" "$munged"; wait; rm -rf "$slurm"' EXIT

until_true() { # wait until a command succeeds, for ten minutes at most
    for _ in $(seq 3000); do
        if "$@"; then return; fi
        sleep 0.2
    done
    echo "waited in vain: $*" >&2
    return 1
}
job=''
fail() {
    echo "$*" >&2
    cat job.out >&2
    exit 1
}
has_step() { squeue -h -s -j "$job" | grep -q "$job\.0"; }
has_part() {
    ! ended || fail "the job has ended too soon"
    compgen -G "$slurm/run/parts/unit-*.h5" > /dev/null
}
queued_again() { # the job waits, and this is its restart number $1
    [[ $(scontrol show job "$job") =~ JobState=PENDING.*Restarts=$1\  ]]
}
ended() { scontrol show job "$job" | grep -qE 'JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)'; }

cd "$slurm"
block '# vpdist on Slurm' | sed -e 's/--nodes=2/--nodes=1/' -e '/--gpus-per-node/d' -e 's/cpus-per-task=32/cpus-per-task=2/' \
    -e "s|reads=reads.fa.gz|reads='$reads'|" -e "s|--nproc-per-node=8|--nproc-per-node=2|" \
    -e "s|zhihan1996/DNABERT-S|'$nucleotide'|" -e "s|facebook/esm2_t36_3B_UR50D|'$protein'|" \
    -e "s|classifier.safetensors|'$classifier'|" > job.sh
job=$(sbatch --parsable --output=job.out job.sh)
restarts=0
for condition in has_step has_part; do
    until_true "$condition"
    scancel --batch --signal=USR1 "$job"
    restarts=$((restarts + 1))
    until_true queued_again "$restarts"
    echo "stopped at $condition, queued again"
    scontrol update JobId="$job" StartTime=now
done
until_true ended
scontrol show job "$job" | grep -q 'JobState=COMPLETED' || fail "the job has failed"
vpdist verify run

srun -n 2 vpdist predict "$reads" -o undisturbed --nucleotide-model "$nucleotide" --protein-model "$protein" \
    --classifier "$classifier" --offline --progress log > undisturbed.out 2>&1
for table in sequences chunks fragments; do
    cmp "run/$table.tsv" "undisturbed/$table.tsv"
done
echo "equal tables"
