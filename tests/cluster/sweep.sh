#!/usr/bin/env bash
# A sweep on a real SLURM of four nodes: how fast it is, what a node that dies in the middle costs, what becomes
# of a task that nobody can stand in for when its node dies, and of one that is preempted. Results are compared
# with those of one process, byte by byte.
#
# Needed: a SLURM of 4 nodes on this machine, called n1 to n4, one CPU each, and commands for it:
#   CLUSTER_START   starts it, and prints shell code that makes `sbatch` find it (`export SLURM_CONF=…`)
#   CLUSTER_KILL    followed by a node's name, takes it away with all that runs on it [kill-node.sh]
#   CLUSTER_STOP    stops it
# Also: CDBENCH   the program [target/release/cdbench]
#       SWEEP     the experiment and its options
#       ALONE     the same for one task by itself: with a training of more than a minute
#       WORK      a folder for stores, which is made [a temporary one, removed at the end]
#
# CLUSTER_START="slurm-local.sh start /tmp/slurm 4" CLUSTER_STOP="slurm-local.sh stop /tmp/slurm" \
#   tests/cluster/sweep.sh
set -euo pipefail
: "${CLUSTER_START:?a command that starts a SLURM of 4 nodes}"
: "${CLUSTER_STOP:?a command that stops it}"
here=$(cd "$(dirname "$0")/../.." && pwd)
kill_node=${CLUSTER_KILL:-$here/tests/cluster/kill-node.sh}
cdbench=${CDBENCH:-$here/target/release/cdbench}
read -ra sweep <<< "${SWEEP:-$here/experiments/smoke.toml --seeds 2 --set scales.default.prompts=4}"
read -ra alone <<< "${ALONE:-$here/experiments/smoke.toml --filter method=custom-diffusion --set scales.default.prompts=2}"
work=${WORK:-}
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
. "$here/tests/cluster/common.sh"

# Compares a store with one that one process has made.
same() {
    for store in "$1" "$2"; do bash -c "$(made "$work/$store")" > "$work/$store.txt"; done
    compare "$1" "$2"
}

status() { "$cdbench" status "${experiment[@]}" --store "$work/$1" "${@:2}"; }
# In a store, with at most so many tasks.
submit() {
    "$cdbench" submit "${experiment[@]}" --store "$work/$1" --max-jobs "$2" 2> "$work/$1.log" > "$work/$1.jobs"
    job=$(head -n 1 "$work/$1.jobs")
}
# Waits until all cells are there, and says when.
wait_for_cells() {
    until status "$1" --strict > "$work/$1.status" 2> /dev/null; do sleep 5; done
    cells=$(since "$start")
}
wait_for_queue() { while [ -n "$(squeue --noheader --me)" ]; do sleep 1; done; }
# Waits until somebody trains, and says on which node, as which task, and what.
wait_for_training() {
    local line
    until line=$(status "$1" | grep '^running  train.* on n[0-9], job' | head -n 1) && [ -n "$line" ]; do sleep 1; done
    node=$(sed 's/.* on \(n[0-9]\), job.*/\1/' <<< "$line")
    task=$(sed 's/.*, job \([0-9_]*\).*/\1/' <<< "$line")
    lost=$(sed 's/^running  \(.*\) (process .*/\1/' <<< "$line")
}
# What the controller says of a task.
of_task() { scontrol show job "$1" 2> /dev/null | tr ' ' '\n' | sed -n "s/^$2=//p"; }
# Waits until the controller has put a task back into the queue, and until it runs again.
wait_for_restart() {
    local from
    from=$(now)
    until [ "$(of_task "$1" Restarts)" = 1 ]; do
        case $(of_task "$1" JobState) in
            RUNNING | COMPLETING | PENDING) sleep 1 ;;
            *) echo "it was not put back into the queue"; return ;;
        esac
    done
    echo "it was back in the queue after $(since "$from") s"
    while [ "$(of_task "$1" JobState)" = PENDING ]; do sleep 1; done
    echo "and ran again after $(since "$from") s, on $(of_task "$1" NodeList)"
}
# The step of which a training's curve says that the next came late.
went_on_from() {
    awk -F, 'NR > 2 && $2 - time > most { most = $2 - time; at = $1 - 1 } { step = $1; time = $2 }
        END { printf "it went on after step %d of %d, %.0f s later", at, step, most }' "$work/$1"/curves/*.csv
}
# The log of who went on.
taken() { grep -ho 'process .* is dead; its stage is taken over' "$work/$1"/jobs/*/*.txt | head -n 1 || echo nobody; }

echo "one process, one thread" >&2
start=$(now)
"$cdbench" --threads 1 run "${sweep[@]}" --store "$work/one" --team one 2> "$work/one.log"
one=$(since "$start")
"$cdbench" --threads 1 run "${alone[@]}" --store "$work/one-alone" --team one 2> "$work/one-alone.log"

eval "$($CLUSTER_START)"
trap '$CLUSTER_STOP; [ -n "${WORK:-}" ] || rm -rf "$work"' EXIT
[ "$(sinfo --noheader --Node | wc -l)" = 4 ] || { echo "four nodes are needed" >&2; exit 1; }

echo "a partition that is not there" >&2
if "$cdbench" submit "${sweep[@]}" --store "$work/refused" --partition nowhere 2> "$work/refused.log"; then
    echo "it was not refused" >&2
    exit 1
fi
refused=$(head -n 1 "$work/refused.log")

experiment=("${sweep[@]}")
echo "four nodes" >&2
start=$(now)
submit four 4
wait_for_cells four
four=$cells
wait_for_queue
four_all=$(since "$start")
[ -f "$(find "$work/four/reports" -name README.md | head -n 1)" ] || { echo "no report" >&2; exit 1; }

echo "four nodes, of which one dies" >&2
start=$(now)
submit killed 4
# in the middle: a quarter of the time in, on a node that trains
sleep "$((four / 4))"
wait_for_training killed
died="$node was killed after $(since "$start") s, task $task at \"$lost\""
echo "$died" >&2
$kill_node "$node"
wait_for_restart "$task" > "$work/killed.restart" &
wait_for_cells killed
killed=$cells
wait_for_queue
wait
killed_all=$(since "$start")

experiment=("${alone[@]}")
echo "one task, whose node dies" >&2
start=$(now)
submit alone 1
wait_for_training alone
# until a state was saved, which is half a minute in
sleep 45
died_alone="$node was killed after $(since "$start") s, task $task at \"$lost\""
echo "$died_alone" >&2
$kill_node "$node"
wait_for_restart "$task" > "$work/alone.restart"
wait_for_queue

echo "one task, which is preempted" >&2
start=$(now)
submit preempted 1
wait_for_training preempted
sleep 15
scontrol requeue "$task"
wait_for_restart "$task" > "$work/preempted.restart"
wait_for_queue

{
    cat << END
| | all cells, s | until the report, s | against one process |
|---|---:|---:|---|
| one process, one thread | $one | | |
| four nodes | $four | $four_all | $(same four one) |
| four nodes, one dies | $killed | $killed_all | $(same killed one) |
| one task, whose node dies | | | $(same alone one-alone) |
| one task, preempted | | | $(same preempted one-alone) |

Speed-up $(awk -v a="$one" -v b="$four" 'BEGIN { printf "%.2f", a / b }') on a machine of $(nproc) cores. Refused: $refused

- Four nodes: $died; that cost $((killed - four)) s. The log of who went on: $(taken killed). Of the task: $(paste -sd ' ' "$work/killed.restart").
- One task: $died_alone; $(paste -sd ' ' "$work/alone.restart"); $(went_on_from alone). Its log: $(taken alone).
- Preempted: $(paste -sd ' ' "$work/preempted.restart"); $(went_on_from preempted).

What the controller's log says of it:

END
    grep -i 'requeu' "$(scontrol show config | sed -n 's/^SlurmctldLogFile *= //p')"
} | tee "$work/said.md"
! grep -q DIFFERENT "$work/said.md"
