#!/usr/bin/env bash
# Kills the program N times at any moment and counts what it had acknowledged: scripts/kill9.sh [N] (default 1000).
# Prints how many kills there were and how many acknowledged answers; fails if one of them is lost.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    sed -n '2,3s/^# //p' "$0"
    exit 0
fi
ACCLIMATE_KILLS="${1:-1000}" exec cargo test --release --locked --quiet \
    --config 'profile.release.package.acclimate.debug-assertions=true' \
    --config 'profile.release.package.acclimate.overflow-checks=true' \
    --test kill nothing_acknowledged -- --nocapture
