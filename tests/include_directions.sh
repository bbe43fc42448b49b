#!/usr/bin/env bash
# Checks who may include whom (design: calls go down, values come up):
#   service -> scheduler -> model; cpu -> model's vocabulary only; service alone knows all parts.
# Ends with 1 and the offending lines when a file looks the wrong way.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
# forbid FOLDER REGEX WHY: no file of FOLDER may include a path that matches REGEX.
forbid() {
  local found
  found=$(grep -rnE "^#include [\"<]($2)" "$1" --include='*.h' --include='*.cc' --include='*.cu' \
    --include='*.cuh' 2>/dev/null || true)
  if [ -n "$found" ]; then
    printf '%s: %s\n%s\n' "$1" "$3" "$found" >&2
    failed=1
  fi
}

forbid model 'scheduler/|service/|cpu/|cuda/|bench/|tests/' 'model/ knows no one above or beside it'
forbid scheduler 'service/|cpu/|cuda/|bench/|tests/' 'scheduler/ knows model/ alone, and no device'
forbid service 'bench/|tests/' 'service/ needs neither tests nor benchmarks'
for device in cpu cuda; do
  [ -d "$device" ] || continue
  forbid "$device" 'scheduler/|service/|bench/|tests/' "$device/ knows model/'s vocabulary alone"
  forbid "$device" 'model/(config|safetensors|weights|tokenizer|chat_template|stream_decoder|phi3|kv_cache)' \
    "$device/ knows ops, not models"
done
forbid cpu 'cuda/' 'the backends do not know each other'
[ -d cuda ] && forbid cuda 'cpu/' 'the backends do not know each other'
for folder in model scheduler cpu cuda; do
  [ -d "$folder" ] || continue
  forbid "$folder" 'grpc|tuppence/v1' 'the engine builds without gRPC'
done
exit $failed
