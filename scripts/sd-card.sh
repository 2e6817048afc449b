#!/usr/bin/env bash
# What a day of use writes to a memory card, counted at the block layer of a loop device: 1,000 predictions, feedback on
# every third, one training by `adapt`, a process each: scripts/sd-card.sh [PROGRAM]
# Needs root, loop devices and mkfs.ext4. Prints the MiB that were written; fails above 25, or with 77 where the system
# gives no loop device.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    sed -n '2,4s/^# //p' "$0"
    exit 0
fi
program="$(realpath "${1:-target/release/acclimate}")"
model="$(realpath models/har_cnn.onnx)"
folder="$(mktemp -d)"
device=""
clean_up() {
    umount "$folder/card" 2> /dev/null || true
    [[ -z "$device" ]] || losetup -d "$device" || true
    rm -rf "$folder"
}
trap clean_up EXIT
truncate -s 256M "$folder/image"
if ! device="$(losetup -f --show "$folder/image")"; then
    echo "the system gives no loop device: nothing was measured" >&2
    exit 77
fi
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$device"
mkdir "$folder/card"
mount -o noatime "$device" "$folder/card"
# Windows of six axes; the sixth part of them of each class, more or less.
python3 - "$folder" << 'PYTHON'
import random, struct, sys
random.seed(0)
header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 128), }"
header += b" " * (117 - len(header)) + b"\n"
for i in range(1000):
    values = [random.gauss(i % 6 / 3 - 1, 0.3) for _ in range(768)]
    with open(f"{sys.argv[1]}/{i}.npy", "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + struct.pack("<768f", *values))
PYTHON
home="$folder/card/home"
"$program" init "$home" --model "$model" --quiet > /dev/null
sync
sectors() { awk '{ print $7 }' "/sys/block/$(basename "$device")/stat"; }
before="$(sectors)"
for i in $(seq 0 999); do
    "$program" predict "$home" "$folder/$i.npy" --quiet > /dev/null
    if (( i % 3 == 0 )); then "$program" feedback "$home" last --label "$(( i % 6 ))" --quiet > /dev/null; fi
done
sync
used="$(sectors)"
# Whatever the machine is busy with, it trains.
"$program" adapt "$home" --max-cpu-pressure 100 --max-memory-pressure 100 --max-temperature 200 --json |
    grep -E '"(promoted|kept)"'
sync
after="$(sectors)"
mib() { awk -v n="$1" 'BEGIN { printf "%.1f", n / 2048 }'; }
echo "1,000 predictions and 334 pieces of feedback: $(mib $((used - before))) MiB;" \
    "the training: $(mib $((after - used))) MiB; together: $(mib $((after - before))) MiB"
(( after - before <= 25 * 2048 ))
