#!/usr/bin/env bash
# Sets up, builds and runs every test, and ends with the line `N passed, N failed`.
#   tests/run.sh                 the release build's tests, the scripts, and the tests of model/ and
#                                scheduler/ with AddressSanitizer and UndefinedBehaviorSanitizer
#   tests/run.sh --sanitizers    the same, and with sanitizers all but the end-to-end scripts
# Counts are of single tests: each GoogleTest case and each script is one.
set -uo pipefail
cd "$(dirname "$0")/.."

# Debian's own Python: the packages that install_deps.sh brings are its, whatever stands first on PATH.
python=/usr/bin/python3

sanitizers=0
case "${1:-}" in
  '') ;;
  --sanitizers) sanitizers=1 ;;
  *) echo "tests/run.sh: unknown argument '$1'; --sanitizers is the only one" >&2; exit 2 ;;
esac

passed=0
failed=0
failures=()
results=$(mktemp -d)
building=
trap 'rm -rf "$results"; [ -z "$building" ] || kill "$building" 2>/dev/null' EXIT

record() {  # record NAME EXIT_CODE
  if [ "$2" -eq 0 ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    failures+=("$1")
  fi
}

finish() {
  for name in "${failures[@]}"; do echo "FAILED $name"; done
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ] && exit 0
  exit 1
}

step() { printf '\n== %s (%s s since the start)\n' "$*" "$SECONDS"; }

# A script that is one test; `script timeout SECONDS ...` is one that must be done by then.
script() {
  step "$*"
  "$@"
  record "$*" $?
}

# begin PRESET [TARGET...]: builds on what else runs leaves of the cores; `built PRESET` waits for it.
begin() {
  local preset=$1
  shift
  (cmake --preset "$preset" -DTUPPENCE_TESTS_TOGETHER=ON && exec nice ninja -C "build/$preset" "$@") >"$results/$preset.log" 2>&1 &
  building=$!
}

# A failed build is one failed test, and nothing of it is run.
built() {
  step "build $1"
  wait "$building"
  local code=$?
  building=
  [ "$code" -eq 0 ] && return
  tail -n 60 "$results/$1.log"
  record "build $1" 1
  return 1
}

# gtest BINARY: every case counts for itself. A binary that dies counts as one failure more.
gtest() {
  step "$*"
  local report="$results/report.json" counts
  rm -f "$report"
  "$@" --gtest_brief=1 --gtest_output="json:$report"
  local code=$?
  counts=$("$python" - "$report" <<'PY'
import json, sys
try:
    report = json.load(open(sys.argv[1]))
except OSError:
    print("0 0")
    sys.exit()
cases = [case for suite in report["testsuites"] for case in suite["testsuite"]]
run = [case for case in cases if case["result"] == "COMPLETED"]
print(sum("failures" not in case for case in run), sum("failures" in case for case in run))
PY
  )
  passed=$((passed + ${counts% *}))
  failed=$((failed + ${counts#* }))
  if [ "$code" -ne 0 ]; then
    failures+=("$*")
    [ "${counts#* }" -eq 0 ] && failed=$((failed + 1))
  fi
}

step "packages"
deploy/install_deps.sh test || { record "install packages" 1; finish; }

script tests/format.sh
script tests/file_sizes.sh
script tests/include_directions.sh
script tests/engine_without_grpc.sh
script "$python" deploy/demo_model/check_phrasings.py
script "$python" tests/deploy/prometheus_files_test.py
script "$python" tests/bench/peers_test.py

begin cpu
built cpu
released=$?

if [ "$released" -eq 0 ]; then
  for name in model cuda_emulated ops golden scheduler service end_to_end; do
    gtest "build/cpu/tests/$name/${name}_test"
  done
  script timeout 120 build/cpu/tests/scheduler/simulation/scheduler_simulation --seeds 1000
  script "$python" tests/scheduler/simulation/planted.py build/cpu
  script "$python" tests/cuda_emulated/service_test.py build/cpu
  script "$python" tests/cuda_emulated/golden_service_test.py build/cpu
  script "$python" tests/cuda_emulated/failure_test.py build/cpu
  script "$python" tests/cuda/gpu_report_test.py build/cpu
  script "$python" tests/end_to_end/observability_test.py build/cpu
  script "$python" tests/end_to_end/kill_test.py build/cpu
  script "$python" tests/end_to_end/budget_test.py build/cpu
  script "$python" tests/end_to_end/batch_test.py build/cpu
  script "$python" tests/end_to_end/files_test.py build/cpu
  script "$python" tests/end_to_end/openai_clients_test.py build/cpu
  script "$python" tests/end_to_end/page_test.py build/cpu
  script "$python" tests/model/tokenizer_differential.py --count 2000 build/cpu/tests/model/tokenizer_pipe
fi

# Where nvcc is: every kernel for every architecture, and the whole build with the CUDA backend in it.
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  script "$python" tests/cuda/kernel_limits.py
else
  echo "nvcc was not found: the kernels ran emulated only"
fi

# Memory errors and undefined behaviour, first of all where files and strangers' bytes are read.
sanitized=(model scheduler)
[ "$sanitizers" -eq 0 ] || sanitized+=(cuda_emulated ops golden service)
begin asan "${sanitized[@]/%/_test}" scheduler_simulation
if built asan; then
  for name in "${sanitized[@]}"; do
    gtest "build/asan/tests/$name/${name}_test"
  done
  script timeout 300 build/asan/tests/scheduler/simulation/scheduler_simulation --seeds 1000
fi
if [ "$sanitizers" -eq 1 ]; then
  # Data races where threads meet: the engine and the thread pool. Debian's gRPC is not built for it, so
  # the service is left out.
  begin tsan ops_test scheduler_test
  if built tsan; then
    for name in ops scheduler; do
      gtest "build/tsan/tests/$name/${name}_test"
    done
  fi
fi
finish
