#!/usr/bin/env bash
# Everything that wants a GPU, in one command: tests on the device, NVIDIA's sanitizers, kernel and whole-step figures,
# peers, projections. Prints one table and writes it to bench/results/.
#   bench/gpu_check.sh                on a machine with a GPU
#   bench/gpu_check.sh --build        makes the programs alone: carry the tree with build/gpu and build/gpu-ptx75 to a
#                                     machine that has only the CUDA toolkit, and run the first form there
#   bench/gpu_check.sh --quick        without the sanitizers, which take the longest
# The programs need glibc and the driver, other libraries lie beside them; compute-sanitizer, cuBLAS, PyTorch and transformers are used where
# they are, and named where they are not.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-all}
case "$mode" in
  all | --build | --quick) ;;
  *) echo "gpu_check.sh: unknown argument '$mode'; --build and --quick are the only ones" >&2; exit 2 ;;
esac
native=build/gpu
ptx75=build/gpu-ptx75
step() { printf '\n== %s (%s s since the start)\n' "$*" "$SECONDS"; }

programs=(tests/ops/ops_test tests/golden/golden_test bench/gpu_bench)

build() {
  step "build: native, and the sm_75 source path through PTX"
  for preset in gpu gpu-ptx75; do
    cmake --preset "$preset" >/dev/null
    cmake --build --preset "$preset" --target "${programs[@]##*/}"
    gather "build/$preset"
  done
}

# Copies the libraries of a build's programs beside them, all but glibc's own.
gather() {
  local folder=$1
  mkdir -p "$folder/lib"
  ldd "${programs[@]/#/$folder/}" | awk '/=> \// { print $3 }' | sort -u |
    grep -Ev '/(libc|libm|libdl|librt|libpthread)\.so' | grep -v "^$PWD/$folder/lib/" | xargs -r cp -Lt "$folder/lib"
}

tests() {  # tests BUILD [GTEST_FLAGS...]
  local folder=$1
  shift
  "$folder/tests/ops/ops_test" --gtest_brief=1 "$@"
  "$folder/tests/golden/golden_test" --gtest_brief=1 --gtest_filter='All/*'
}

if [ "$mode" = --build ]; then
  build
  exit 0
fi
if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "gpu_check.sh: no NVIDIA GPU was found here; nothing was run" >&2
  exit 1
fi
for program in $native/tests/ops/ops_test $ptx75/tests/ops/ops_test; do
  [ -x "$program" ] || { build; break; }
done
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr ' /' '--' | tr '[:upper:]' '[:lower:]')
out=bench/results/$(date +%Y-%m-%d)-gpu_check-$gpu.md
figures=$(mktemp -d)
trap 'rm -rf "$figures"' EXIT
export TUPPENCE_TEST_BACKENDS=cuda

step "op tests and golden checkpoints on the device"
tests $native
step "the sm_80 path, forced"
TUPPENCE_TEST_ARCH=80 tests $native
step "the sm_75 source path on this device, through PTX"
TUPPENCE_TEST_ARCH=75 tests $ptx75

# The op tests under each of NVIDIA's sanitizers, in shards side by side: one alone would take most of an hour's quarter.
sanitize() {
  local shards=4 shard tool job failed=0
  local -a jobs=()
  for tool in memcheck racecheck initcheck synccheck; do
    for ((shard = 0; shard < shards; ++shard)); do
      GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 3 \
        $native/tests/ops/ops_test --gtest_brief=1 >"$figures/$tool.$shard" 2>&1 &
      jobs+=("$!:$figures/$tool.$shard")
    done
  done
  for job in "${jobs[@]}"; do
    wait "${job%%:*}" || { failed=1; tail -n 40 "${job#*:}"; }
  done
  return $failed
}

sanitized="compute-sanitizer was left out"
if [ "$mode" = --quick ]; then
  echo "$sanitized, as asked"
elif command -v compute-sanitizer >/dev/null; then
  step "compute-sanitizer: memcheck, racecheck, initcheck, synccheck"
  sanitize
  sanitized="compute-sanitizer found nothing (memcheck, racecheck, initcheck, synccheck)"
else
  echo "compute-sanitizer was not found: left out"
fi

step "kernels and whole steps"
$native/bench/gpu_bench | tee "$figures/native.jsonl"
step "the same on the sm_75 path"
$ptx75/bench/gpu_bench --f16 | tee "$figures/ptx75.jsonl"
step "peers"
python3 bench/gpu_peers.py | tee "$figures/peers.jsonl"

step "results"
{
  echo "# GPU check: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1), $(date +%Y-%m-%d)"
  echo
  echo "Command: \`bench/gpu_check.sh\`, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown). Op tests and golden checkpoints"
  echo "passed natively, by the forced sm_80 path and by the sm_75 path through PTX; $sanitized."
  echo
  python3 bench/gpu_report.py --ptx75 "$figures/ptx75.jsonl" "$figures/native.jsonl" "$figures/peers.jsonl"
} | tee "$out"
echo "written to $out"
