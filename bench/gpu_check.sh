#!/usr/bin/env bash
# Everything that wants a GPU, in one command: tests on the device, NVIDIA's sanitizers, kernel and end-to-end
# figures. Prints one table and writes it to bench/results/. Needs nvcc and the CUDA runtime; compute-sanitizer is
# used where it is.
#   bench/gpu_check.sh [MODEL]      MODEL: synthetic:phi-3-mini-4k unless given
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:-synthetic:phi-3-mini-4k}
if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "gpu_check.sh: no NVIDIA GPU was found here; nothing was run" >&2
  exit 1
fi
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr ' /' '--' | tr '[:upper:]' '[:lower:]')
out=bench/results/gpu_check-$gpu-$(date +%Y-%m-%d).md
step() { printf '\n== %s (%s s since the start)\n' "$*" "$SECONDS"; }

step "build"
cmake --preset cuda >/dev/null
cmake --build --preset cuda
build=build/cuda
export TUPPENCE_TEST_BACKENDS=cuda

step "op tests and golden checkpoints on the device"
$build/tests/ops/ops_test --gtest_brief=1
$build/tests/golden/golden_test --gtest_brief=1 --gtest_filter='All/*'

step "the sm_75 source path on this device, through PTX"
cmake --preset cuda -B build/cuda-ptx75 -DCMAKE_CUDA_ARCHITECTURES=75-virtual >/dev/null
cmake --build build/cuda-ptx75 --target ops_test golden_test
TUPPENCE_TEST_ARCH=75 build/cuda-ptx75/tests/ops/ops_test --gtest_brief=1
TUPPENCE_TEST_ARCH=75 build/cuda-ptx75/tests/golden/golden_test --gtest_brief=1 --gtest_filter='All/*'

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    step "compute-sanitizer $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 3 $build/tests/ops/ops_test --gtest_brief=1
  done
else
  echo "compute-sanitizer was not found: left out"
fi

step "kernels"
{
  echo "# GPU check: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1), $(date +%Y-%m-%d)"
  echo
  echo "Command: \`bench/gpu_check.sh $model\`, commit $(git rev-parse --short HEAD)."
  echo
  $build/bench/gpu_bench
} | tee "$out"

step "end to end: $model"
for setting in 'f16 f16' 'int8 int8' 'int4 int8'; do
  read -r weights kv <<<"$setting"
  $build/service/tuppence serve --backend cuda --model "$model" --weights "$weights" --kv "$kv" --port 8133 --admin-port 8134 &
  server=$!
  until curl -sf 127.0.0.1:8134/readyz >/dev/null; do
    kill -0 $server 2>/dev/null || { echo "the service ended while it started" >&2; exit 1; }
    sleep 0.5
  done
  for callers in 1 8 32 128; do
    printf '\n## %s weights, %s keys and values, %s callers\n\n' "$weights" "$kv" "$callers" | tee -a "$out"
    $build/bench/serve_bench --address 127.0.0.1:8133 --concurrency "$callers" --requests $((4 * callers)) --prompt 1024 --output 128 \
      | tee -a "$out"
  done
  kill $server
  wait $server || true
done
echo "written to $out"
