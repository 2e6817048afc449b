#!/bin/sh
# The quick start with pictures, by the program on the PATH: init, predict, feedback, train, rollback, verify.
#
#   walk.sh MODELS HOME [TRAIN]
#
#   MODELS   the folder models/ of the checkout
#   HOME     folder to make
#   TRAIN    command that trains (default: acclimate train HOME)
#
# Exit code 1: a command failed, or nothing was promoted. The last line says what was learned.
set -eu

models=$1
home=$2
shift 2
acclimate --quiet init "$home" --model "$models/digits_cnn.onnx" >/dev/null
count=0
for picture in "$models"/digits/feedback/*/*.png; do
    label=$(basename "$(dirname "$picture")")
    acclimate --quiet predict "$home" "$picture" >/dev/null
    acclimate --quiet feedback "$home" last --label "$label" --new-class >/dev/null
    count=$((count + 1))
done
if [ $# -gt 0 ]; then "$@" >/dev/null; else acclimate --quiet train "$home" >/dev/null; fi
json() { tr -d ' \n' | sed -n "s/.*\"$1\":\([-0-9.a-z]*\).*/\1/p"; }
learned=$(acclimate eval "$home" --data "$models/digits/test" --json)
base=$(echo "$learned" | json base_accuracy)
adapted=$(echo "$learned" | json adapted_accuracy)
generation=$(acclimate status "$home" --json | json generation)
[ "$generation" = 1 ] || { echo "walk: generation ${generation:-none} is active after training, not 1" >&2; exit 1; }
awk -v a="$adapted" -v b="$base" 'BEGIN { exit !(a > b) }' || { echo "walk: no better: $learned" >&2; exit 1; }
acclimate --quiet rollback "$home" >/dev/null
generation=$(acclimate status "$home" --json | json generation)
[ "$generation" = 0 ] || { echo "walk: generation $generation is active after the rollback" >&2; exit 1; }
acclimate --quiet verify "$home" >/dev/null
echo "walk: $count pictures labelled; accuracy $base before, $adapted after one training; rolled back; sound"
