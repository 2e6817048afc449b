#!/usr/bin/env bash
# Builds the acclimate binary (profile dist, default features and bundles) for an ARM board.
#
#   scripts/cross-build.sh [TARGET] [--max-glibc 2.36] [--toolchain auto|rustup|debian] [--target-dir DIR] [--bin NAME]
#
#   TARGET         aarch64-unknown-linux-gnu (the default, and the only one the debian toolchain covers)
#   --max-glibc    fail when the binary needs a newer glibc than this (default 2.36, Raspberry Pi OS "bookworm";
#                  bullseye has 2.31, Ubuntu 22.04 and JetPack 6 have 2.35). "any" switches the check off.
#   --toolchain    rustup: `rustup target add`. debian: Debian's own rustc and ARM standard library, unpacked into the
#                  cache, for machines that reach a Debian mirror and nothing else. auto (the default): rustup if it works,
#                  else debian.
#   --target-dir   where cargo builds (default: CARGO_TARGET_DIR, else target/ of the checkout)
#   --bin          binary to build (default acclimate)
#
# The C compiler and linker come from Debian's gcc-aarch64-linux-gnu; as root the script installs what is missing.
# Downloads are kept in ${ACCLIMATE_CACHE:-~/.cache/acclimate}/cross: a second run fetches nothing. Messages go to stderr;
# the last lines, on stdout, are `path`, `bytes` and `glibc` of the stripped binary. Works from any directory, on any
# checkout.
set -euo pipefail

say() { echo "cross-build: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }
value() { [ -n "${2:-}" ] || die "$1 needs a value" "see --help" 2; }

older() { [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=aarch64-unknown-linux-gnu
toolchain=auto
max_glibc=2.36
bin=acclimate
target_dir=${CARGO_TARGET_DIR:-$root/target}

read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
            --max-glibc) value "$@"; max_glibc=$2; shift ;;
            --toolchain) value "$@"; toolchain=$2; shift ;;
            --target-dir) value "$@"; target_dir=$2; shift ;;
            --bin) value "$@"; bin=$2; shift ;;
            -*) die "unknown argument '$1'" "see --help" 2 ;;
            *) target=$1 ;;
        esac
        shift
    done
}

# Refuses what makes no sense; sets `gnu`, Debian's name of the target.
check_arguments() {
    case $toolchain in auto | rustup | debian) ;; *) die "unknown toolchain '$toolchain'" "one of auto, rustup, debian" 2 ;; esac
    [ "$target" = aarch64-unknown-linux-gnu ] || [ "$toolchain" != debian ] ||
        die "the debian toolchain builds for aarch64-unknown-linux-gnu only, not for '$target'" "use --toolchain rustup" 2
    case $target in
        aarch64-unknown-linux-gnu) gnu=aarch64-linux-gnu ;;
        armv7-unknown-linux-gnueabihf) gnu=arm-linux-gnueabihf ;;
        *) die "no recipe for target '$target'" "aarch64-unknown-linux-gnu (64-bit Pi and Jetson) or armv7-unknown-linux-gnueabihf" 2 ;;
    esac
    [[ $max_glibc =~ ^(any|[0-9]+(\.[0-9]+)+)$ ]] || die "--max-glibc '$max_glibc' is not a version" "for example 2.36, or any" 2
    case $target_dir in /*) ;; *) target_dir=$PWD/$target_dir ;; esac
}

# Installs the Debian packages that provide the commands that are missing; only root can.
need() { # COMMAND PACKAGE...
    local tool=$1
    shift
    command -v "$tool" >/dev/null && return 0
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || die "$tool is missing" "sudo apt-get install $*"
    say "installing $*"
    { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2; } ||
        { apt-get update >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2; } ||
        die "could not install $*"
}

# rustup's standard library for the target, fetched if need be. False where rustup is absent or reaches no server.
with_rustup() {
    command -v rustup >/dev/null || return 1
    local installed
    # Asked in the checkout, so that a toolchain pinned there is the one that gets the target.
    installed=$(cd "$root" && rustup target list --installed 2>/dev/null) || return 1
    grep -qx "$target" <<<"$installed" && return 0
    say "rustup target add $target"
    (cd "$root" && timeout 300 rustup target add "$target" >&2)
}

# Compilers for the C of the target and of this machine.
with_compilers() {
    local arch=armhf
    [ "$gnu" = arm-linux-gnueabihf ] || arch=arm64
    [ "$host" = "$target" ] || need "$gnu-gcc" "gcc-$gnu" "libc6-dev-$arch-cross"
    command -v cc >/dev/null || need gcc gcc libc6-dev
}

# Sets `used` to the toolchain that has the target's standard library.
with_rust() {
    if [ "$host" = "$target" ]; then
        say "this machine is $target itself: a plain build"
        used=native
    elif [ "$toolchain" != debian ] && with_rustup; then
        used=rustup
    elif [ "$toolchain" != rustup ] && [ "$target" = aarch64-unknown-linux-gnu ] && with_debian; then
        used=debian
    else
        die "no Rust toolchain for $target" "'rustup target add $target' where rustup reaches its server; else a Debian \
bookworm with bookworm-security in its sources; else 'cross build --profile dist --target $target'"
    fi
}

# cc builds tract's assembly kernels; cargo links with the same compiler. A caller's own choice is left alone.
export_compilers() {
    local pair lower=${target//-/_} upper
    upper=$(tr 'a-z-' 'A-Z_' <<<"$target")
    for pair in "CC_$lower=$gnu-gcc" "AR_$lower=$gnu-ar" "CARGO_TARGET_${upper}_LINKER=$gnu-gcc"; do
        [ -n "$(printenv "${pair%%=*}" || true)" ] || export "${pair?}"
    done
}

# Sets `built`, the stripped binary.
build() {
    say "building $bin for $target ($used toolchain) in $target_dir"
    local started=$SECONDS strip=$gnu-strip
    (cd "$root" && CARGO_TARGET_DIR=$target_dir cargo build --profile dist --locked --features bundles \
        --target "$target" --bin "$bin" >&2) ||
        die "the build failed"
    built=$target_dir/$target/dist/$bin
    [ -f "$built" ] || die "cargo left no binary at $built" "is build.target-dir or --artifact-dir set in a cargo config?"
    # strip reads its own architecture only; it finds nothing left to strip after cargo's own `strip = true`.
    command -v "$strip" >/dev/null || strip=strip
    "$strip" "$built"
    say "built in $((SECONDS - started)) s"
}

# The newest glibc that the dynamic linker insists on: GLIBC_2.x among the version references.
glibc_of() { # FILE
    readelf --version-info --wide "$1" | grep 'Name: GLIBC_' | grep -v 'Flags: WEAK' | grep -oE 'GLIBC_[0-9.]+' |
        sort -Vu | tail -n 1 | cut -d _ -f 2
}

report() {
    need readelf binutils
    local glibc
    glibc=$(glibc_of "$built") || true
    echo "path   $built"
    echo "bytes  $(stat -c %s "$built")"
    echo "glibc  ${glibc:-none}"
    if [ "$max_glibc" != any ] && [ -n "$glibc" ] && older "$max_glibc" "$glibc"; then
        die "the binary needs glibc $glibc, newer than $max_glibc" \
            "build on an older Debian, or 'cargo zigbuild --profile dist --target $target.$max_glibc'"
    fi
}

read_arguments "$@"
check_arguments
cache=${ACCLIMATE_CACHE:-${HOME:?HOME is not set: set ACCLIMATE_CACHE}/.cache/acclimate}/cross
command -v cargo >/dev/null || die "cargo is not on the PATH" "install Rust first: https://rustup.rs"
# The oldest rustc that can build this checkout, as its manifest says.
msrv=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
msrv=${msrv:-1.91}
source "$root/scripts/lib/debian-rust.sh"
host=$(rustc -vV 2>/dev/null | sed -n 's/^host: //p')
with_compilers
with_rust
[ "$used" = native ] || export_compilers
build
report
