#!/usr/bin/env bash
# Damages files of every kind and reads them, SECONDS each: scripts/fuzz.sh SECONDS [TARGET] [FIRST INPUT].
# With a nightly toolchain and cargo-fuzz, `cargo +nightly fuzz run TARGET` in fuzz/ does it guided by coverage.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    sed -n '2,3s/^# //p' "$0"
    exit 0
fi
exec cargo run --release --locked --quiet --features bundles \
    --config 'profile.release.package.acclimate.debug-assertions=true' \
    --config 'profile.release.package.acclimate.overflow-checks=true' \
    --example fuzz -- "${1:-10}" "${2:-all}" "${3:-0}"
