#!/bin/sh
# What the commands take on a device that was used for a year and never trained: a table of seconds, anonymous memory,
# and bytes read and written, with 100,000 interactions that all have feedback (ACCLIMATE_YEAR sets another number).
# Takes minutes and 1 GiB of disk.
set -eu
cd "$(dirname "$0")/.."
exec cargo nextest run --release --locked --features bundles --test cli --run-ignored only --no-capture \
    -E 'test(what_a_year_costs)'
