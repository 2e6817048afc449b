#!/usr/bin/env bash
# Do an x86-64 and an ARM program agree, and does each read what the other wrote? Runs both, ARM by qemu-user:
#
#   - the quick start with pictures on a Cortex-A53 (Pi 3, Zero 2), an A72 (Pi 4) and an A76 (Pi 5), all of qemu
#   - gradients of the bundled models, by `gradcheck --dump`: 1e-5 of a matrix's largest gradient
#   - a home with feedback, trained on both with one seed: the same verdict and the same generation
#   - each trained home (journal, adapter, head of the store) opened by the other: the same answers, and more feedback
#   - a bundle made by each, imported by the other
#
#   scripts/arm-agree.sh [--short] [--native BIN] [--arm BIN]
#
#   --short           one processor, a Cortex-A72; gradients; one verdict; homes, but no bundles
#   --native, --arm   programs to run (default: built by cargo, profile release, and by cross-build.sh)
#
# Needs root where the kernel does not start ARM programs yet. On an ARM machine two ARM programs are compared, without
# qemu. Exit code 1: something differs, and is named.
set -euo pipefail

say() { echo "arm-agree: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
native=
arm=
short=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --short) short=1 ;;
        --native | --arm)
            [ -f "${2:-}" ] || die "$1 '${2:-}' is no file" "see --help" 2
            declare "${1#--}=$(realpath "$2")"
            shift
            ;;
        *) die "unknown argument '$1'" "see --help" 2 ;;
    esac
    shift
done
source "$root/scripts/lib/emulate.sh"
if [ -z "$arm" ]; then
    arm=$("$root/scripts/cross-build.sh" aarch64-unknown-linux-gnu | sed -n 's/^path *//p')
fi
if [ -z "$native" ]; then
    native=${CARGO_TARGET_DIR:-$root/target}/release/acclimate
    (cd "$root" && cargo build --release --locked --features bundles --bin acclimate >&2) || die "the build failed"
fi
work=$(mktemp -d)
trap 'end_emulation; rm -rf "$work"' EXIT
emulate
# The ARM C library, which a static program does not ask for.
export QEMU_LD_PREFIX=${QEMU_LD_PREFIX:-/usr/aarch64-linux-gnu}
"$arm" --version >/dev/null || die "$arm does not start here" "under qemu: sudo apt-get install libc6-arm64-cross"
cd "$root"
failed=0
check() { # WHAT COMMAND...
    local what=$1 began=$SECONDS word=ok
    shift
    "$@" || { word=WRONG; failed=$((failed + 1)); }
    printf '%-5s %s (%s s)\n' "$word" "$what" "$((SECONDS - began))"
}
agree() { python3 "$root/scripts/lib/agree.py" "$@"; }

mkdir "$work/bin"
ln -s "$arm" "$work/bin/acclimate"
cpus=(cortex-a53 cortex-a72 cortex-a76)
[ -z "$short" ] || cpus=(cortex-a72)
[ "$(uname -m)" != aarch64 ] || cpus=("processor of this machine")
for cpu in "${cpus[@]}"; do
    check "the quick start on a $cpu" env QEMU_CPU="$cpu" PATH="$work/bin:$PATH" \
        sh scripts/lib/walk.sh models "$work/$cpu"
done

python3 -m zipfile -e models/tiny_chat.zip "$work/chat"
for model in models/digits_cnn.onnx models/har_cnn.onnx models/intents_encoder.onnx "$work/chat/model.onnx"; do
    name=$(basename "$(dirname "$model")")-$(basename "$model" .onnx)
    "$native" -q gradcheck "$model" --dump "$work/$name-x86" >/dev/null || die "gradcheck of $model failed here"
    "$arm" -q gradcheck "$model" --dump "$work/$name-arm" >/dev/null || die "gradcheck of $model failed on arm"
    check "gradients of $model" agree gradients "$work/$name"-{x86,arm}/gradients.safetensors
done

# One home with feedback, not trained; then one copy for each.
home=$work/home
"$native" -q init "$home" --model models/digits_cnn.onnx >/dev/null
for picture in models/digits/feedback/*/*.png; do
    "$native" -q predict "$home" "$picture" >/dev/null
    "$native" -q feedback "$home" last --label "$(basename "$(dirname "$picture")")" --new-class >/dev/null
done
cp -r "$home" "$work/x86"
cp -r "$home" "$work/arm"
"$native" -q train "$work/x86" --seed 7 --threads 1 --json >"$work/x86.json"
"$arm" -q train "$work/arm" --seed 7 --threads 1 --json >"$work/arm.json"
check "one seed, one verdict" agree verdict "$work/x86.json" "$work/arm.json"

# PROGRAM opens the home that OTHER trained, after it said what it answers itself.
opened() { # PROGRAM OTHER HOME
    local program=$1 other=$2 copy=$3-copy
    cp -r "$3" "$copy"
    "$program" -q verify "$copy" >/dev/null || return 1
    "$other" -q predict "$3" models/digits/test/*/*.png --top 9 --json >"$work/maker.json" || return 1
    "$program" -q predict "$copy" models/digits/test/*/*.png --top 9 --json >"$work/opener.json" || return 1
    agree answers "$work/maker.json" "$work/opener.json" || return 1
    "$program" -q feedback "$copy" last --accept >/dev/null || return 1
    "$other" status "$copy" --json | grep -q '"feedback":37' || { echo "      the feedback is not there"; return 1; }
    "$program" -q train "$copy" --threads 1 --json >/dev/null
}
check "a home from x86 on ARM" opened "$arm" "$native" "$work/x86"
check "a home from ARM on x86" opened "$native" "$arm" "$work/arm"

bundled() { # FROM TO HOME
    local file=$3.age profile
    profile=$(basename "$3")
    "$1" -q export "$3" --bundle "$file" --passphrase-file "$work/secret" >/dev/null || return 1
    "$2" -q import "$home" "$file" --passphrase-file "$work/secret" --profile "$profile" >/dev/null || return 1
    "$2" -q verify "$home" >/dev/null || return 1
    "$1" -q predict "$3" models/digits/test/*/*.png --top 9 --json >"$work/maker.json" || return 1
    "$2" -q predict "$home" --profile "$profile" models/digits/test/*/*.png --top 9 --json >"$work/opener.json" ||
        return 1
    agree answers "$work/maker.json" "$work/opener.json"
}
echo "correct horse battery staple" >"$work/secret"
if [ -z "$short" ]; then
    check "a bundle from x86 on ARM" bundled "$native" "$arm" "$work/x86"
    check "a bundle from ARM on x86" bundled "$arm" "$native" "$work/arm"
fi
[ "$failed" = 0 ] || die "$failed checks failed"
say "both agree"
