#!/usr/bin/env bash
# Checks that no source file is over 500 lines: split by noun before it gets there.
set -euo pipefail
cd "$(dirname "$0")/.."
long=$(git ls-files --cached --others --exclude-standard -- '*.h' '*.cc' '*.cu' '*.cuh' '*.py' '*.sh' '*.proto' |
  xargs wc -l | awk '$2 != "total" && $1 > 500 {print $2 ": " $1 " lines; at most 500 are allowed"}')
if [ -n "$long" ]; then
  echo "$long" >&2
  exit 1
fi
