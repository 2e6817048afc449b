#!/usr/bin/env bash
# Does an ARM board learn what this machine learns? Runs the demo here and, under qemu, as the cross-built ARM binary, and
# compares the accuracies person by person.
#
#   scripts/arm-demo.sh [--base-tolerance 0.005] [--tolerance 0.03] [--native BIN] [--arm BIN] [-- DEMO ARGUMENTS]
#   scripts/arm-demo.sh --compare NATIVE.json ARM.json
#
#   --base-tolerance  how far the frozen model's accuracy may differ, as a fraction (0.005: one window in 200, from another order of
#                     summation in the kernels)
#   --tolerance       how far the adapted accuracy may differ: rounding grows over a training run, and may tip a close verdict
#   --native, --arm   binaries to run, instead of building them
#   --compare         only compare two results of `acclimate demo --json`
#
# QEMU_CPU chooses the emulated processor (default cortex-a76, the Raspberry Pi 5's; cortex-a72 is the Pi 4's). Seconds under
# emulation say nothing about a board: they are printed, not compared. Exit code 1: the accuracies differ.
set -euo pipefail

say() { echo "arm-demo: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }
value() { [ "$2" -gt "$3" ] || die "$1 needs $3 value(s)" "see --help" 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
base_tolerance=0.005
tolerance=0.03
native=
arm=
compare=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --base-tolerance) value "$1" $# 1; base_tolerance=$2; shift ;;
        --tolerance) value "$1" $# 1; tolerance=$2; shift ;;
        --native) value "$1" $# 1; native=$(realpath "$2"); shift ;;
        --arm) value "$1" $# 1; arm=$(realpath "$2"); shift ;;
        --compare) value "$1" $# 2; compare=("$2" "$3"); shift 2 ;;
        --) shift; break ;;
        *) die "unknown argument '$1'" "see --help" 2 ;;
    esac
    shift
done
for number in "$base_tolerance" "$tolerance"; do
    [[ $number =~ ^[0-9]*\.?[0-9]+$ ]] || die "tolerance '$number' is not a number" "for example 0.03" 2
done
command -v python3 >/dev/null || die "python3 is missing" "sudo apt-get install python3"

# Prints both results and exits 1 if they differ.
verdict() { # NATIVE.json ARM.json
    python3 - "$1" "$2" "$base_tolerance" "$tolerance" <<'PY'
import json, sys


def people(path):
    try:
        with open(path, encoding="utf-8") as file:
            demo = json.load(file)
        return demo, {p["name"]: (p.get("interactions"), float(p["base_accuracy"]), float(p["adapted_accuracy"])) for p in demo["people"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"arm-demo: {path} is not a result of the demo: {type(error).__name__}: {error}")


(native, here), (arm, there) = people(sys.argv[1]), people(sys.argv[2])
base_tolerance, tolerance = float(sys.argv[3]), float(sys.argv[4])
wrong = []
if not here:
    wrong.append("the demo met nobody")
if list(here) != list(there):
    wrong.append(f"other people: {list(here)} here, {list(there)} on arm")
print(f"{'person':<12} {'base':>8} {'arm':>8} {'differ':>8}   {'adapted':>8} {'arm':>8} {'differ':>8}")
for name in (n for n in here if n in there):
    (count, base, adapted), (arm_count, arm_base, arm_adapted) = here[name], there[name]
    by_base, by_adapted = abs(base - arm_base), abs(adapted - arm_adapted)
    print(f"{str(name):<12} {base:8.4f} {arm_base:8.4f} {by_base:8.4f}   {adapted:8.4f} {arm_adapted:8.4f} {by_adapted:8.4f}")
    if count != arm_count:
        wrong.append(f"{name}: {count} interactions here, {arm_count} on arm")
    # Written so that a NaN is a difference.
    if not by_base <= base_tolerance + 1e-9:
        wrong.append(f"{name}: base accuracy differs by {by_base:.4f}, more than {base_tolerance:g}")
    if not by_adapted <= tolerance + 1e-9:
        wrong.append(f"{name}: adapted accuracy differs by {by_adapted:.4f}, more than {tolerance:g}")
print(f"seconds: {native.get('seconds')} here, {arm.get('seconds')} on arm")
print(f"tolerance: base {base_tolerance:g}, adapted {tolerance:g}")
for line in wrong:
    print(f"arm-demo: {line}", file=sys.stderr)
print("arm-demo: " + ("different" if wrong else "the same"))
sys.exit(1 if wrong else 0)
PY
}

if [ ${#compare[@]} -gt 0 ]; then
    verdict "${compare[@]}"
    exit
fi

qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
if [ -z "$qemu" ]; then
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || die "qemu-aarch64-static is missing" "sudo apt-get install qemu-user-static"
    { apt-get install -y --no-install-recommends qemu-user-static >&2 ||
        { apt-get update >&2 && apt-get install -y --no-install-recommends qemu-user-static >&2; }; } || die "could not install qemu-user-static"
    qemu=$(command -v qemu-aarch64-static)
fi
if [ -z "$arm" ]; then
    built=$("$root/scripts/cross-build.sh" aarch64-unknown-linux-gnu)
    echo "$built"
    arm=$(sed -n 's/^path *//p' <<<"$built")
fi
if [ -z "$native" ]; then
    target_dir=${CARGO_TARGET_DIR:-$root/target}
    (cd "$root" && CARGO_TARGET_DIR=$target_dir cargo build --release --locked --bin acclimate >&2) || die "the build failed"
    native=$target_dir/release/acclimate
fi
[ -d /usr/aarch64-linux-gnu/lib ] || die "the ARM C library is not in /usr/aarch64-linux-gnu" "sudo apt-get install libc6-arm64-cross"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
say "the demo, here"
"$native" demo --json "$@" >"$work/native.json" || die "the demo failed here"
say "the demo, as $(basename "$arm") under $(basename "$qemu") (minutes)"
QEMU_CPU=${QEMU_CPU:-cortex-a76} "$qemu" -L /usr/aarch64-linux-gnu "$arm" demo --json "$@" >"$work/arm.json" || die "the demo failed on arm"
echo "native: $(tr -d '\n' <"$work/native.json")"
echo "arm:    $(tr -d '\n' <"$work/arm.json")"
verdict "$work/native.json" "$work/arm.json"
