#!/usr/bin/env bash
# The tests of the code that holds `unsafe` (products, loops compiled for AVX2, tensors that are written before they are read) under valgrind's memcheck:
# reads of what was never written, and of what is not ours.
#
#   scripts/memcheck.sh [TEST FILTER...]     default: linalg simd depthwise product
#
# miri says more of what it can interpret, which is no AVX: scripts/miri.sh.
# Installs valgrind as root where it is missing. Slow: minutes. Exit code 9: memcheck found an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;; esac
command -v valgrind >/dev/null || { [ "$(id -u)" = 0 ] && apt-get install -y --no-install-recommends valgrind >&2; } ||
    { echo "memcheck: valgrind is missing: sudo apt-get install valgrind" >&2; exit 1; }
[ $# -gt 0 ] || set -- linalg simd depthwise product
binary=$(cargo test --release --locked --lib --no-run --message-format json \
    --config 'profile.release.package.acclimate.debug-assertions=true' \
    --config 'profile.release.package.acclimate.overflow-checks=true' |
    python3 -c 'import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("profile", {}).get("test") and m.get("executable"):
        print(m["executable"])' | tail -n 1)
exec valgrind --quiet --error-exitcode=9 --leak-check=no --undef-value-errors=yes "$binary" --test-threads 1 "$@"
