#!/usr/bin/env bash
# Proof on a GPU in one call: parity with the CPU's kernels, SD 1.5's steps and denoising beside PyTorch and diffusers
# where Python has them, mini's table 1, memory. Builds nothing, needs no network, ends within TIME seconds.
#
#   CDBENCH=target-cuda/release/cdbench benches/gpu.sh
#   DEVICE=cpu CDBENCH=target/release/cdbench TIME=300 benches/gpu.sh      # small, to see that it works
#
# Progress is on stderr; OUT (gpu.json) has all that was found, as one JSON object, with each part's command, seconds and
# exit code. A part that fails or does not fit the time is said there and takes no other with it.
set -uo pipefail
cd "$(dirname "$0")/.."

DEVICE="${DEVICE:-cuda}"
CDBENCH="${CDBENCH:-target/release/cdbench}"
PYTHON="${PYTHON:-python3}"
TIME="${TIME:-570}"
OUT="${OUT:-gpu.json}"
case "$DEVICE" in
  cpu) defaults=(mini 64 4 3 "f32" 64 16) ;;
  *) defaults=(sd15 512 8 10 "f32 tf32 bf16" 320 64) ;;
esac
MODEL="${MODEL:-${defaults[0]}}"        # of steps and denoising: mini, sd15 or sd21, or a folder
SIZE="${SIZE:-${defaults[1]}}"          # side of its images in pixels
BATCH="${BATCH:-${defaults[2]}}"        # images a step
REPEATS="${REPEATS:-${defaults[3]}}"    # steps that are timed
TYPES="${TYPES:-${defaults[4]}}"        # what is computed in
CHANNELS="${CHANNELS:-${defaults[5]}}"  # of the operations that are compared
SIDE="${SIDE:-${defaults[6]}}"          # of their maps
HALF="${HALF-f16}"                      # a type that is compared and not timed

work=$(mktemp -d)
trap 'rm -rf "$work"; [ -n "${watcher:-}" ] && kill "$watcher" 2>/dev/null' EXIT
start=$(date +%s)
parts="$work/parts"
: >"$parts"

# Any text as a JSON string.
quoted() {
  printf '"%s"' "$(tr '\n\t' '  ' | sed 's/\\/\\\\/g; s/"/\\"/g' | tr -d '\000-\037')"
}

# part NAME SECONDS COMMAND…: runs it, for so long at most, and keeps what it prints.
part() {
  local name="$1" most="$2" left before code
  shift 2
  left=$((TIME - $(date +%s) + start))
  if [ "$left" -le 5 ]; then
    echo "$name: no time left" >&2
    printf '"%s": {"skipped": "no time left"},\n' "$name" >>"$parts"
    return
  fi
  [ "$most" -lt "$left" ] && left="$most"
  echo "$name: $*" >&2
  before=$(date +%s.%N)
  timeout "$left" "$@" >"$work/out" 2>"$work/err"
  code=$?
  tail -n 3 "$work/err" >&2
  {
    printf '"%s": {"command": ' "$name"
    printf '%s ' "$@" | quoted
    printf ', "exit_code": %d, "seconds": %s' "$code" "$(echo "$before $(date +%s.%N)" | awk '{printf "%.1f", $2 - $1}')"
    [ "$code" -ne 0 ] && printf ', "error": %s' "$(tail -n 5 "$work/err" | quoted)"
    if head -c 1 "$work/out" | grep -q '[{[]'; then
      printf ', "found": %s' "$(cat "$work/out")"
    else
      # lines of a name and a value
      printf ', "found": {%s}' "$(sed -n 's/\\/\\\\/g; s/"/\\"/g; s/^\([^ ].*[^ ]\)   *\(.*\)$/"\1": "\2",/p' "$work/out" | sed '$ s/,$//')"
    fi
    printf '},\n'
  } >>"$parts"
}

# The most memory that the GPU has had in use, in MiB, in all processes.
most="$work/most"
echo null >"$most"
if [ "$DEVICE" != cpu ] && command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 2>/dev/null |
    awk -v file="$most" '$1 + 0 > most { most = $1 + 0; print most > file; close(file) }' &
  watcher=$!
fi

flags_of() {
  case "$1" in
    tf32) echo "--dtype f32 --tf32" ;;
    *) echo "--dtype $1" ;;
  esac
}

part doctor 60 "$CDBENCH" doctor --device "$DEVICE" --json
for type in $TYPES $HALF; do
  # shellcheck disable=SC2046
  part "parity $type" 120 "$CDBENCH" bench parity --device "$DEVICE" $(flags_of "$type") --channels "$CHANNELS" --side "$SIDE"
done
config="$MODEL"
if [ "$MODEL" = mini ]; then
  "$CDBENCH" export mini "$work/mini" >/dev/null 2>&1
  config="$work/mini"
fi
for train in kv all; do
  for type in $TYPES; do
    [ "$type" = tf32 ] && continue
    bf16=$([ "$type" = bf16 ] && echo --bf16)
    # shellcheck disable=SC2086
    part "step $train $type" 90 "$CDBENCH" bench step --config "$config" --resolution "$SIZE" --batch "$BATCH" \
      --train "$train" --repeats "$REPEATS" --device "$DEVICE" $bf16
  done
done
for type in $TYPES; do
  # shellcheck disable=SC2046
  part "denoise $type" 90 "$CDBENCH" bench denoise --backbone "$config" --resolution "$SIZE" --batch 1 --steps 20 \
    --device "$DEVICE" $(flags_of "$type")
done
if "$PYTHON" -c 'import torch, diffusers' 2>/dev/null; then
  for type in $TYPES; do
    part "peer $type" 90 "$PYTHON" benches/gpu_peer.py --model "$config" --device "$DEVICE" --dtype "$type" \
      --size "$SIZE" --batch "$BATCH" --repeats "$REPEATS"
  done
else
  echo "no torch and diffusers in $PYTHON: nothing to compare with" >&2
fi
if [ "$DEVICE" = cpu ]; then
  part "smoke" 240 "$CDBENCH" run experiments/smoke.toml --device cpu --store "$work/store" \
    --set scales.default.train_steps=0.03
else
  part "table 1" 240 "$CDBENCH" run experiments/table1.toml --device "$DEVICE" --store "$work/store"
fi

{
  echo '{'
  printf '"device": "%s", "model": "%s", "size": %d, "batch": %d,\n' "$DEVICE" "$MODEL" "$SIZE" "$BATCH"
  printf '"started": "%s", "seconds": %d,\n' "$(date -u -d "@$start" +%FT%TZ)" "$(($(date +%s) - start))"
  printf '"gpu": %s,\n' "$({ nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo none; } | quoted)"
  printf '"most_gpu_memory_mib": %s,\n' "$(cat "$most")"
  echo '"parts": {'
  sed '$ s/,$//' "$parts"
  echo '}}'
} >"$OUT"
echo "written: $OUT" >&2
failed=$(grep -c '"exit_code": [^0]' "$parts")
[ "$failed" -eq 0 ] || { echo "$failed parts failed" >&2; exit 1; }
