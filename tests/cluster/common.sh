# What the scripts here measure and compare with; they read it.

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.0f", b - a }'; }

# The command, for whichever machine sees the store, that prints the hashes of all that was made in it, by
# names; but for what says when and how long.
made() {
    printf "cd %q && find retrieval checkpoints samples scores -type f ! -name stage.json ! -name '.*' \
        -exec sha256sum {} + | sort -k2" "$1"
}

# Compares what was made in a store with that of one process, both kept in files of $work.
compare() {
    if diff -q "$work/$2.txt" "$work/$1.txt" > /dev/null; then
        echo "the same bytes in all $(wc -l < "$work/$2.txt") files"
    else
        echo "DIFFERENT: $(diff "$work/$2.txt" "$work/$1.txt" | grep -c '^>') files"
    fi
}
