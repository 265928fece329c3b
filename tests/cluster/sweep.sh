#!/usr/bin/env bash
# A sweep on a real SLURM of four nodes: how fast it is, and what a node that is killed in the middle costs.
# Results are compared with those of one process, byte by byte.
#
# Needed: a SLURM of 4 nodes on this machine, called n1 to n4, one CPU each, and three commands for it:
#   CLUSTER_START   starts it, and prints shell code that makes `sbatch` find it (`export SLURM_CONF=…`)
#   CLUSTER_KILL    followed by a node's name, takes it away with all that runs on it
#   CLUSTER_STOP    stops it
# Also: CDBENCH   the program [target/release/cdbench]
#       SWEEP     the experiment and its options
#       WORK      a folder for stores, which is made [a temporary one, removed at the end]
#
# CLUSTER_START="slurm-local.sh start /tmp/slurm 4" CLUSTER_KILL="slurm-local.sh kill /tmp/slurm" \
#   CLUSTER_STOP="slurm-local.sh stop /tmp/slurm" tests/cluster/sweep.sh
set -euo pipefail
: "${CLUSTER_START:?a command that starts a SLURM of 4 nodes}"
: "${CLUSTER_KILL:?a command that kills the node it is given}"
: "${CLUSTER_STOP:?a command that stops it}"
here=$(cd "$(dirname "$0")/../.." && pwd)
cdbench=${CDBENCH:-$here/target/release/cdbench}
read -ra sweep <<< "${SWEEP:-$here/experiments/smoke.toml --seeds 2 --set scales.default.prompts=4}"
work=${WORK:-}
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.0f", b - a }'; }

# The hashes of all that was made, by names; but for what says when and how long.
made() {
    (cd "$1" && find retrieval checkpoints samples scores -type f ! -name stage.json ! -name '.*' \
        -exec sha256sum {} + | sort -k2)
}

# Compares a store with that of one process.
same() {
    made "$work/one" > "$work/one.txt"
    made "$work/$1" > "$work/$1.txt"
    if diff -q "$work/one.txt" "$work/$1.txt" > /dev/null; then
        echo "the same bytes in all $(wc -l < "$work/one.txt") files"
    else
        echo "DIFFERENT: $(diff "$work/one.txt" "$work/$1.txt" | grep -c '^>') files"
        different=1
    fi
}
different=

status() { "$cdbench" status "${sweep[@]}" --store "$work/$1" "${@:2}"; }
submit() {
    "$cdbench" submit "${sweep[@]}" --store "$work/$1" --max-jobs 4 2> "$work/$1.log" > "$work/$1.jobs"
    job=$(head -n 1 "$work/$1.jobs")
}
# Waits until all cells are there, and says when.
wait_for_cells() {
    until status "$1" --strict > "$work/$1.status" 2> /dev/null; do sleep 5; done
    cells=$(since "$start")
}
wait_for_queue() { while [ -n "$(squeue --noheader --me)" ]; do sleep 1; done; }

echo "one process, one thread" >&2
start=$(now)
"$cdbench" --threads 1 run "${sweep[@]}" --store "$work/one" --team one 2> "$work/one.log"
one=$(since "$start")

eval "$($CLUSTER_START)"
trap '$CLUSTER_STOP; [ -n "${WORK:-}" ] || rm -rf "$work"' EXIT
[ "$(sinfo --noheader --Node | wc -l)" = 4 ] || { echo "four nodes are needed" >&2; exit 1; }

echo "a partition that is not there" >&2
if "$cdbench" submit "${sweep[@]}" --store "$work/refused" --partition nowhere 2> "$work/refused.log"; then
    echo "it was not refused" >&2
    exit 1
fi
refused=$(head -n 1 "$work/refused.log")

echo "four nodes" >&2
start=$(now)
submit four
wait_for_cells four
four=$cells
wait_for_queue
four_all=$(since "$start")
[ -f "$(find "$work/four/reports" -name README.md | head -n 1)" ] || { echo "no report" >&2; exit 1; }

echo "four nodes, of which one dies" >&2
start=$(now)
submit killed
# in the middle: a quarter of the time in, on a node that trains
sleep "$((four / 4))"
until node=$(status killed | sed -n 's/^running  train.* on \(n[0-9]\), job.*/\1/p' | head -n 1) && [ -n "$node" ]; do
    sleep 1
done
lost=$(status killed | sed -n "s/^running  \(.*\) (process .* on $node, job.*/\1/p")
echo "killing $node, which is at: $lost" >&2
$CLUSTER_KILL "$node"
died=$(since "$start")
wait_for_cells killed
killed=$cells
wait_for_queue
killed_all=$(since "$start")
taken=$(grep -ho 'process .* is dead; its stage is taken over' "$work"/killed/jobs/*/*.txt | head -n 1 || true)

cat <<END
| | all cells, s | until the report, s | against one process |
|---|---:|---:|---|
| one process, one thread | $one | | |
| four nodes | $four | $four_all | $(same four) |
| four nodes, one killed | $killed | $killed_all | $(same killed) |

Speed-up $(awk -v a="$one" -v b="$four" 'BEGIN { printf "%.2f", a / b }') on a machine of $(nproc) cores. $node was killed after $died s, at "$lost"; that cost $((killed - four)) s. The log of who went on: ${taken:-nobody}. Refused: $refused
END
[ -z "$different" ]
