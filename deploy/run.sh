#!/usr/bin/env bash
# From a fresh clone on Debian 12 to a priced answer: installs packages, builds a release binary,
# serves the demo model on this machine's CPU, asks it one question over gRPC, and keeps serving until
# Ctrl-C, which drains.
#   deploy/run.sh [further flags of `tuppence serve`]
set -euo pipefail
cd "$(dirname "$0")/.."

port=${TUPPENCE_PORT:-8033}
admin_port=${TUPPENCE_ADMIN_PORT:-8034}
# An example price, so that the answer shows one: AWS g4dn.xlarge's public hourly price is of this
# order. Give your own machine's with TUPPENCE_PRICE_PER_HOUR.
price=${TUPPENCE_PRICE_PER_HOUR:-0.526}
# The books; a flag --usage-store wins over it.
export TUPPENCE_USAGE_STORE=${TUPPENCE_USAGE_STORE:-build/release/usage.db}
# TUPPENCE_BINARY: a program that is built already; then nothing is installed and built.
binary=${TUPPENCE_BINARY:-build/release/service/tuppence}
question="Where is my order 48213?"
record="Order 48213: status shipped; carrier DHL; expected 14 March 2026; items 2; total 39.90 EUR"

note() { printf '\n== %s\n' "$*"; }

packages_seconds=0
build_seconds=0

install_and_build() {
  note "Packages"
  SECONDS=0
  deploy/install_deps.sh build
  packages_seconds=$SECONDS

  note "Build"
  SECONDS=0
  [ ! -x /usr/local/cuda/bin/nvcc ] || PATH=$PATH:/usr/local/cuda/bin
  if command -v nvcc >/dev/null; then
    echo "nvcc was found: the CUDA backend is built too, and used where there is a GPU for it"
  else
    echo "nvcc was not found: CPU only"
  fi
  local log=build/release/build.log
  mkdir -p build/release
  if ! { cmake --preset release -DTUPPENCE_CUDA=ON && cmake --build --preset release; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "The build failed; the whole log is $log" >&2
    exit 1
  fi
  build_seconds=$SECONDS
}

[ -n "${TUPPENCE_BINARY:-}" ] || install_and_build

# Of whatever service has the admin port.
ready() {
  local line
  exec 3<>"/dev/tcp/127.0.0.1/$admin_port" || return 1
  printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
  read -r line <&3 || true
  exec 3>&-
  [[ $line == *" 200 "* ]]
} 2>/dev/null

note "Start"
SECONDS=0
if ready; then
  echo "A service answers on port $admin_port already: stop it, or set TUPPENCE_PORT and TUPPENCE_ADMIN_PORT" >&2
  exit 1
fi
# Its own session, so that a Ctrl-C reaches it once, through the trap, and not from the terminal too:
# a second signal would cut the drain short.
setsid "$binary" serve --model deploy/demo_model/checkpoint --port "$port" --admin-port "$admin_port" \
  --price-per-hour "$price" --rate-card-id example "$@" &
service=$!
trap 'kill -TERM "$service" 2>/dev/null || true' INT TERM

until ready; do
  if ! kill -0 "$service" 2>/dev/null; then
    wait "$service" && code=0 || code=$?
    echo "The service ended before it was ready (exit code $code); its last lines above say why" >&2
    exit 1
  fi
  sleep 0.1
done
start_seconds=$SECONDS

note "A customer asks: $question"
echo "   (in the system message: $record)"
"$binary" chat --address "127.0.0.1:$port" --system "$record" --message "$question" --temperature 0

cat <<EOF

== Ready. Packages $packages_seconds s, build $build_seconds s, start $start_seconds s.
   Prices use $price USD an hour, an example: set TUPPENCE_PRICE_PER_HOUR to your machine's.

   Chat in a terminal    $binary chat --address 127.0.0.1:$port
   Python client         python3 deploy/examples/generate.py 127.0.0.1:$port   (needs python3-grpcio)
   grpcurl (reflection)  grpcurl -plaintext 127.0.0.1:$port describe tuppence.v1.Inference
   The bill so far       $binary invoice $TUPPENCE_USAGE_STORE
   Metrics and health    http://127.0.0.1:$admin_port/metrics   /healthz   /readyz

   Serving until Ctrl-C.
EOF

# `wait` returns early on a trapped signal: wait again until the service has drained.
while kill -0 "$service" 2>/dev/null; do
  wait "$service" && code=0 || code=$?
done
exit "${code:-0}"
