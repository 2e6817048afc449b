#!/bin/sh
# How much slower predictions are while `adapt` trains in another process: their 95th percentile with the training
# stopped and going on, by turns, on two cores. Fails above 1.3 times, and where others leave the training less than
# half a core: at idle priority it then hardly runs, and nothing is measured. Run it on a machine that does nothing
# else.
set -eu
cd "$(dirname "$0")/.."
run="cargo nextest run --release --locked --features bundles --test cli --run-ignored only --no-capture"
if command -v taskset > /dev/null; then run="taskset -c 0,1 $run"; fi
exec $run -E 'test(predictions_are_hardly_slower_while_it_trains)'
