#!/usr/bin/env bash
# The tests of the matrix products under miri: every pointer that is handed on, in range and without aliases.
#
#   scripts/miri.sh [TEST FILTER...]     default: linalg
#
# Needs a nightly toolchain: rustup toolchain install nightly --component miri,rust-src. Takes 3 minutes, and some 5 more to build.
# What is interpreted are the products by matrixmultiply as any CPU runs them; scripts/memcheck.sh runs the loops for AVX2,
# and the products that write into memory that was not cleared. Plans are left out: the runtime's own scratch memory is refused by Stacked Borrows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cargo +nightly miri --version >/dev/null 2>&1 ||
    { echo "miri: not installed: rustup toolchain install nightly --component miri,rust-src" >&2; exit 1; }
[ $# -gt 0 ] || set -- linalg::
export MIRIFLAGS="${MIRIFLAGS:--Zmiri-disable-isolation}"
exec cargo +nightly miri test --locked --lib --no-default-features --features train -- "$@"
