#!/usr/bin/env bash
# Installs the Debian 12 packages that building, running and testing need. Called by deploy/run.sh and
# tests/run.sh; quick when nothing is missing.
#   deploy/install_deps.sh build     compiler and libraries of the service
#   deploy/install_deps.sh test      the above, and what the tests use
set -euo pipefail

build_packages=(
  g++ cmake ninja-build pkg-config ca-certificates
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev
  nlohmann-json3-dev libcli11-dev libspdlog-dev libboost-dev prometheus-cpp-dev libssl-dev
  zlib1g-dev libxxhash-dev libcurl4-openssl-dev libsqlite3-dev tzdata
)
test_packages=(
  libgtest-dev libgmock-dev libbenchmark-dev libboost-context-dev clang-format strace openssl curl
  prometheus chromium chromium-driver python3-selenium python3 python3-venv python3-yaml python3-grpcio python3-protobuf python3-numpy python3-sentencepiece
)

case "${1:-build}" in
  build) wanted=("${build_packages[@]}") ;;
  test) wanted=("${build_packages[@]}" "${test_packages[@]}") ;;
  *) echo "install_deps.sh: '$1' is not a set of packages; use 'build' or 'test'" >&2; exit 2 ;;
esac

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "install_deps.sh: apt-get was not found; this script knows Debian 12. Missing: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps.sh: needs root or sudo to install: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing ${#missing[@]} Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
