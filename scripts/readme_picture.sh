#!/usr/bin/env bash
# Draws the README's picture anew: the learning curves of the demo at seed 0, into docs/images/demo.svg.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo run --release --locked --quiet -- --quiet demo --seed 0 --plot docs/images/demo.svg
