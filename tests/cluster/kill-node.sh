#!/usr/bin/env bash
# A SLURM node dies as a machine does that loses its power: without a word to the controller, which finds out
# when it has not answered for SlurmdTimeout seconds. For nodes that are processes of this machine (`slurmd -N`).
#
#   SLURM_CONF=… kill-node.sh NODE
#
# Whoever could tell of another's end is stopped before anything is killed: slurmd, and each job's slurmstepd,
# which would report that its job ended by a signal, so that SLURM took it for failed and did not requeue it.
set -euo pipefail
node=${1:?a node}

# The numbers of the processes of the node's jobs.
of_jobs() {
    local environ
    for environ in /proc/[0-9]*/environ; do
        if grep -qzx "SLURMD_NODENAME=$node" "$environ" 2> /dev/null \
            && { [ -z "${SLURM_CONF:-}" ] || grep -qzx "SLURM_CONF=$SLURM_CONF" "$environ" 2> /dev/null; }; then
            environ=${environ%/environ}
            echo "${environ#/proc/}"
        fi
    done
}

# Those of the slurmd, and the slurmstepd that started any of the processes that are given.
of_daemons() {
    local process args parent
    for process in $(pgrep -x slurmd); do
        args=" $(tr '\0' ' ' < "/proc/$process/cmdline") "
        if [[ $args == *" -N $node "* && ( -z ${SLURM_CONF:-} || $args == *"$SLURM_CONF"* ) ]]; then
            echo "$process"
        fi
    done
    for process; do
        parent=$(awk '/^PPid:/ { print $2 }' "/proc/$process/status" 2> /dev/null || true)
        if [ -n "$parent" ] && [ "$(cat "/proc/$parent/comm" 2> /dev/null)" = slurmstepd ]; then
            echo "$parent"
        fi
    done | sort -u
}

jobs=$(of_jobs)
# shellcheck disable=SC2086  # numbers, one a word
daemons=$(of_daemons $jobs)
[ -n "$daemons" ] || { echo "no slurmd of $node runs here" >&2; exit 1; }
for process in $daemons $jobs; do kill -STOP "$process" 2> /dev/null || true; done
for process in $daemons $jobs; do kill -KILL "$process" 2> /dev/null || true; done
