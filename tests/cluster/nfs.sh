#!/usr/bin/env bash
# A sweep by machines of their own that share a store on NFS: three kernels (user-mode Linux: each an ordinary
# process, on the same processor), of which one is the server, with a file system in memory, and two are clients, `a`
# and `b`. For each way to mount it: both together; `a` stands still while it trains, and wakes; `a` is killed while
# it trains. Results are compared with those of one process, byte by byte.
#
# Needed: user-mode-linux, nfs-common, nfs-kernel-server, rpcbind, kmod, as Debian has them; root.
#   UML       the kernel as a program [linux.uml]
#   MODULES   the folder that has a folder of its modules, called after its version [/usr/lib/uml/modules]
#   NFSD      the folder of exportfs, rpc.mountd and rpc.nfsd [/usr/sbin]
# Also: CDBENCH   the program [target/release/cdbench]
#       SWEEP     the experiment and its options
#       ALONE     the same, with a training of more than a minute
#       MOUNTS    ways to mount, and by how many seconds the clock of `a` is ahead then
#       WORK      a folder, which is made [a temporary one, removed at the end]
#
# The kernels see this machine's files, and can write to those in WORK alone; of networks they see one of their own.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
uml=$(command -v "${UML:-linux.uml}")
modules=$(realpath "${MODULES:-/usr/lib/uml/modules}")
nfsd=$(realpath "${NFSD:-/usr/sbin}")
cdbench=$(realpath "${CDBENCH:-$here/target/release/cdbench}")
sweep=${SWEEP:-$here/experiments/smoke.toml --set scales.default.prompts=4}
alone=${ALONE:-$here/experiments/smoke.toml --filter method=custom-diffusion --set scales.default.prompts=2}
mounts=${MOUNTS:-vers=4.1:0 vers=3,nolock:0 vers=4.1:3600}
work=${WORK:-$(mktemp -d)}
mkdir -p "$work/home"
work=$(realpath "$work")
declare -A machine=()
end() {
    for name in "${!machine[@]}"; do switch_off "$name"; done
    [ -n "${WORK:-}" ] || rm -rf "$work"
}
trap end EXIT

. "$here/tests/cluster/common.sh"

# What a kernel does first: drivers, a network, a place to write; and then whatever it is told.
cat > "$work/init" << END
#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/mnt/work/home
mount -t proc proc /proc
mount -t sysfs sys /sys
for folder in run tmp var/lib/nfs mnt; do mount -t tmpfs none "/\$folder"; done
mkdir -p /mnt/store /mnt/work /mnt/lib
# what is written is seen outside at once
mount -t hostfs -o "sync,$work" none /mnt/work
ln -s "$modules" /mnt/lib/modules
modprobe -d /mnt -a nfsv3 nfsv4 nfsd
hostname "\$name"
ip link set lo up
ip address add "\$address/24" dev eth0
ip link set eth0 up
date -s "@\$((\$(date +%s) + ahead))"
cd "/mnt/work/\$name"
touch ready
while :; do
    if [ -f todo ]; then
        mv todo doing
        code=0
        bash doing > said 2>&1 || code=\$?
        echo "\$code" > code
        mv code done
    fi
    sleep 0.5
done
END
chmod +x "$work/init"

# Switches on the machine NAME, whose address ends with NUMBER, with MEGABYTES, its clock so many seconds AHEAD.
switch_on() {
    rm -rf "${work:?}/$1"
    mkdir "$work/$1"
    # what the kernel does not know it gives to what it starts
    setsid "$uml" "mem=$3M" root=/dev/root rootfstype=hostfs rootflags=/ ro "init=$work/init" \
        con=null con0=null,fd:2 "eth0=mcast,52:54:00:77:00:0$2,239.255.77.77,$port,0" \
        "name=$1" "address=10.77.0.$2" "ahead=$4" < /dev/null > "$work/$1/console.txt" 2>&1 &
    machine[$1]=$!
    wait_for "$1" ready
}
# As by pulling its plug: the kernel, and the processes that it keeps for its own.
switch_off() {
    kill -KILL "${machine[$1]}" 2> /dev/null || true
    kill -KILL "-${machine[$1]}" 2> /dev/null || true
    wait "${machine[$1]}" 2> /dev/null || true
}
# Waits for a file of a machine.
wait_for() {
    until [ -f "$work/$1/$2" ]; do
        kill -0 "${machine[$1]}" || { tail "$work/$1/console.txt" >&2; exit 1; }
        sleep 0.2
    done
}
# Gives a machine something to do; waits for it, and says what it said.
begin() {
    rm -f "$work/$1/done"
    echo "$2" > "$work/$1/next"
    mv "$work/$1/next" "$work/$1/todo"
}
finish() {
    wait_for "$1" done
    [ "$(cat "$work/$1/done")" = 0 ] || { echo "$1: code $(cat "$work/$1/done")" >&2; tail "$work/$1/said" >&2; exit 1; }
}
on() {
    begin "$@"
    finish "$1"
    cat "$work/$1/said"
}

# Compares a store with one that one process has made.
same() {
    on server "$(made "/mnt/store/$1")" > "$work/$1.txt"
    compare "$1" "$2"
}
run() { echo "cd $here; $cdbench --threads 1 run $2 --store /mnt/store/$1 --team $1"; }
# Lets `a` train, with `b` beside it, until it has saved a state and gone on a little.
begin_training() {
    begin a "$(run "$1" "$alone")"
    until on server "$cdbench status $alone --store /mnt/store/$1" | grep -q '^running  train.* on a)'; do sleep 1; done
    begin b "$(run "$1" "$alone")"
    until on server "find /mnt/store/$1/work -name 'step-*.safetensors'" | grep -q .; do sleep 1; done
    sleep 5
}
# The step after which a training's curve has a gap: lines that the machine which died had not sent yet, or else
# time, by two clocks.
went_on_from() {
    on server "cat /mnt/store/$1/curves/*.csv" | awk -F, '
        NR == 1 { next }
        { late = $2 - time; late = late < 0 ? -late : late }
        $1 > step + 1 { late = 1e12 }
        (step > 0 || $1 > 1) && late > most { most = late; at = $1 - 1 }
        { step = $1; time = $2 }
        END { printf "step %d of %d", at, step }'
}
# How a client says that it took a stage over, or that one was taken from it.
words() { grep -ho "$2" "$work/$1/said" | head -n 1 || echo "nothing of it"; }
# How many stages each has done; what is more than the plan has was done twice.
shares() {
    local a b all
    a=$(grep -c ' done in ' "$work/a/said") b=$(grep -c ' done in ' "$work/b/said")
    all=$(sed -n 's/^\[[0-9]*\/\([0-9]*\)\].*/\1/p' "$work/a/said" | head -n 1)
    case $((a + b - all)) in
        0) echo "$a and $b of $all stages, none twice" ;;
        *) echo "DIFFERENT: $a and $b of $all stages" ;;
    esac
}

port=$((20000 + RANDOM % 20000))
echo "one process, one thread" >&2
for what in sweep alone; do
    start=$(now)
    # shellcheck disable=SC2086  # words of a command line
    HOME=$work/home "$cdbench" --threads 1 run ${!what} --store "$work/one/$what" --team one 2> "$work/one-$what.log"
    printf -v "one_$what" %s "$(since "$start")"
    bash -c "$(made "$work/one/$what")" > "$work/one-$what.txt"
done

switch_on server 1 2048 0
on server "set -e
mkdir -p /run/rpcbind; touch /var/lib/nfs/{etab,rmtab}; mkdir -p /var/lib/nfs/v4recovery
mount -t tmpfs -o size=1536m store /mnt/store; mount -t nfsd nfsd /proc/fs/nfsd
rpcbind
$nfsd/exportfs -i -o rw,async,no_root_squash,no_subtree_check,fsid=0 '*:/mnt/store'
$nfsd/rpc.mountd --port 20048
$nfsd/rpc.nfsd 4
# nobody was here before
echo Y > /proc/fs/nfsd/v4_end_grace" >&2

row() { printf '| %s | %s | %s | %s | %s |\n' "$@" | tee -a "$work/said.md"; }
: > "$work/said.md"
row "mount, clock of \`a\`" "" s "against one process" "what they say"
row --- --- ---: --- ---
row "" "one process" "$one_sweep, $one_alone" "" ""
number=0
for way in $mounts; do
    number=$((number + 1))
    options=${way%:*} ahead=${way##*:}
    # the only export is the root of version 4
    case $options in
        *vers=3*) mount="mount -t nfs -o $options,mountport=20048 10.77.0.1:/mnt/store /mnt/store" ;;
        *) mount="mount -t nfs -o $options 10.77.0.1:/ /mnt/store" ;;
    esac
    for name in a b; do
        [ -z "${machine[$name]:-}" ] || switch_off "$name"
    done
    switch_on a 2 1280 "$ahead"
    switch_on b 3 1280 0
    for name in a b; do on "$name" "$mount && grep /mnt/store /proc/mounts && date" >&2; done
    label="$options, $ahead s ahead"

    store=together$number start=$(now)
    echo "$label: together" >&2
    for name in a b; do begin "$name" "$(run "$store" "$sweep")"; done
    for name in a b; do finish "$name"; done
    seconds=$(since "$start")
    cp "$work/a/said" "$work/$store-a.log"; cp "$work/b/said" "$work/$store-b.log"
    row "$label" together "$seconds" "$(same "$store" one-sweep)" "$(shares)"

    store=still$number start=$(now)
    echo "$label: one stands still" >&2
    begin_training "$store"
    kill -STOP "${machine[a]}"
    until grep -q 'is taken over' "$work/b/said"; do sleep 1; done
    sleep 5
    kill -CONT "${machine[a]}"
    for name in a b; do finish "$name"; done
    seconds=$(since "$start")
    cp "$work/a/said" "$work/$store-a.log"; cp "$work/b/said" "$work/$store-b.log"
    row "$label" "\`a\` stands still" "$seconds" "$(same "$store" one-alone)" \
        "a: $(words a 'this run stood still.*'); b: $(words b 'process .* is taken over'), from $(went_on_from "$store")"

    store=killed$number start=$(now)
    echo "$label: one is switched off" >&2
    begin_training "$store"
    switch_off a
    died=$(now)
    until grep -q 'is taken over' "$work/b/said"; do sleep 1; done
    taken=$(since "$died")
    finish b
    seconds=$(since "$start")
    cp "$work/b/said" "$work/$store-b.log"
    row "$label" "\`a\` is switched off" "$seconds" "$(same "$store" one-alone)" \
        "b after $taken s: $(words b 'process .* is taken over'), from $(went_on_from "$store")"
done
! grep -q DIFFERENT "$work/said.md"
