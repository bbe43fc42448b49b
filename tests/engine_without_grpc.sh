#!/usr/bin/env bash
# The engine (model, cpu, cuda, scheduler), its tests and its benchmarks build where there is no gRPC:
# with the service left out, nothing that would be built mentions it.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cmake -S . -B "$folder" -G Ninja -DTUPPENCE_SERVICE=OFF >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
if grep -iE 'grpc|tuppence_service|prometheus|sqlite|spdlog' "$folder/build.ninja"; then
  echo "engine_without_grpc.sh: with TUPPENCE_SERVICE=OFF the lines above still need the service" >&2
  exit 1
fi
