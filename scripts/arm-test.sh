#!/usr/bin/env bash
# Runs the project's tests as 64-bit ARM code, under qemu-user.
#
#   scripts/arm-test.sh [--short] [--build] [--toolchain auto|rustup|debian] [--target-dir DIR] [-- NEXTEST ARGUMENT...]
#
#   --short        unit tests only, of what computes and of what is stored: products, operators, gradients, sites,
#                  training, statistics, gate, adapters, journal, store, disk
#   --build        only builds the tests
#   --toolchain    where the standard library comes from, as for cross-build.sh
#   --target-dir   where cargo builds (default: CARGO_TARGET_DIR, else target/ of the checkout)
#   NEXTEST ARGUMENT   for example --test-threads 1; an -E among them adds to what is run
#
# The whole runs every test but those of the source tree (architecture, flags page, public items) and those that
# scripts/lib/emulated.txt lists with the reason. Tests are built as scripts/test.sh builds them, by the target's gcc
# from Debian, with the standard library that cross-build.sh uses. QEMU_CPU chooses the processor (default cortex-a76,
# the Raspberry Pi 5's). Programs that tests start run by binfmt_misc: needs root where the kernel does not start ARM
# programs yet. On an ARM machine all run without qemu. As root the script installs what is missing. Exit code 1: a test
# failed.
set -euo pipefail

say() { echo "arm-test: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=aarch64-unknown-linux-gnu
toolchain=auto
linker=gcc
max_glibc=any
profile=release
target_dir=${CARGO_TARGET_DIR:-$root/target}
short=
build=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --short) short=1 ;;
        --build) build=1 ;;
        --toolchain)
            case ${2:-} in
                auto | rustup | debian) toolchain=$2 ;;
                *) die "--toolchain '${2:-}' is none of auto, rustup, debian" "see --help" 2 ;;
            esac
            shift
            ;;
        --target-dir) [ -n "${2:-}" ] || die "--target-dir needs a value" "see --help" 2; target_dir=$2; shift ;;
        --) shift; break ;;
        *) die "unknown argument '$1'" "see --help" 2 ;;
    esac
    shift
done
cargo nextest --version >/dev/null 2>&1 || die "cargo-nextest is missing" "cargo install --locked cargo-nextest"
source "$root/scripts/lib/cross.sh"
source "$root/scripts/lib/emulate.sh"
case $target_dir in /*) ;; *) target_dir=$PWD/$target_dir ;; esac
know_target
with_rust
with_linker
export CARGO_TARGET_DIR=$target_dir

checks=()
for check in opt-level=1 debug-assertions=true overflow-checks=true; do
    checks+=(--config "profile.release.package.acclimate.$check")
done
if [ -n "$short" ]; then
    what=(--lib)
    modules='linalg|ops|grad|sites|train|stats|gate|adapter|journal|store|disk'
    # Threads that wait for each other take minutes under emulation.
    filter="test(/^($modules)::/) & not test(any_number_of_threads)"
else
    what=(--lib --bins --tests)
    filter='not (binary(architecture) | binary(docs) | binary(public_api))'
    [ -n "${ACCLIMATE_MODELS:-}" ] || filter+=' & not binary(minilm)'
fi
# What emulation does not do: one filter of nextest a line, the reason after #.
while IFS= read -r line; do
    line=${line%%#*}
    [ -z "${line// /}" ] || filter="($filter) & not ($line)"
done <"$root/scripts/lib/emulated.txt"
run=(--target "$target" --release --locked --features bundles "${checks[@]}" "${what[@]}")

cd "$root"
# Before the build: nextest then asks each of them which tests it has.
trap end_emulation EXIT
emulate
[ "$host" = "$target" ] || [ -f /usr/aarch64-linux-gnu/lib/crt1.o ] ||
    die "the ARM C library is missing" "sudo apt-get install libc6-dev-arm64-cross"
export QEMU_LD_PREFIX=${QEMU_LD_PREFIX:-/usr/aarch64-linux-gnu} QEMU_CPU=${QEMU_CPU:-cortex-a76}
started=$SECONDS
say "building the tests for $target ($used toolchain) in $target_dir"
cargo nextest run "${run[@]}" --no-run || die "the build failed"
say "built in $((SECONDS - started)) s"
[ -z "$build" ] || exit 0
started=$SECONDS
status=0
cargo nextest run "${run[@]}" --no-fail-fast -E "$filter" "$@" || status=$?
processor="a $QEMU_CPU"
[ "$(uname -m)" != aarch64 ] || processor="this machine"
say "ran in $((SECONDS - started)) s on $processor"
exit "$status"
