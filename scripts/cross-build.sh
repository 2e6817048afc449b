#!/usr/bin/env bash
# Builds the acclimate binary (profile dist, default features and bundles) for a board, or for an old desktop.
#
#   scripts/cross-build.sh [TARGET] [--max-glibc 2.31] [--linker auto|zig|gcc] [--toolchain auto|rustup|debian]
#                          [--target-dir DIR] [--bin NAME] [--features LIST]
#
#   TARGET         aarch64-unknown-linux-gnu (the default), aarch64-unknown-linux-musl (static),
#                  armv7-unknown-linux-gnueabihf (best effort), x86_64-unknown-linux-gnu, x86_64-unknown-linux-musl
#   --max-glibc    newest glibc that the binary may need (default 2.31: Debian 11, Raspberry Pi OS "bullseye",
#                  JetPack 5). zig links against the symbols of that version; the result is checked. "any": whatever the
#                  linker has.
#   --linker       zig: cargo-zigbuild and ziglang, fetched from PyPI into the cache. gcc: the target's gcc from Debian,
#                  which links against Debian's own glibc. auto (the default): zig if it can be had, else gcc.
#   --toolchain    rustup: `rustup target add`. debian: Debian's own rustc and ARM standard library, unpacked into the
#                  cache, for machines that reach a Debian mirror and no server of rustup's; where Debian has no
#                  standard library (musl, armv7), cargo builds it from Debian's source of it (-Z build-std). auto (the
#                  default): rustup if it works, else debian.
#   --target-dir   where cargo builds (default: CARGO_TARGET_DIR, else target/ of the checkout)
#   --bin          binary to build (default acclimate)
#   --features     features beside bundles: cuda, for a Jetson's GPU (docs/how-to/gpu.md)
#
# As root the script installs what is missing. Downloads are kept in ${ACCLIMATE_CACHE:-~/.cache/acclimate}/cross: a
# second run fetches nothing. Messages go to stderr; the last lines, on stdout, are `path`, `bytes` and `glibc` of the
# stripped binary. Beside it stays NAME.symbols, the same program with names of functions, for check-baseline.sh.
set -euo pipefail

say() { echo "cross-build: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }
value() { [ -n "${2:-}" ] || die "$1 needs a value" "see --help" 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=aarch64-unknown-linux-gnu
toolchain=auto
linker=auto
max_glibc=2.31
bin=acclimate
features=bundles
profile=dist
target_dir=${CARGO_TARGET_DIR:-$root/target}

read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
            --max-glibc) value "$@"; max_glibc=$2; shift ;;
            --linker) value "$@"; linker=$2; shift ;;
            --toolchain) value "$@"; toolchain=$2; shift ;;
            --target-dir) value "$@"; target_dir=$2; shift ;;
            --bin) value "$@"; bin=$2; shift ;;
            --features) value "$@"; features+=,$2; shift ;;
            -*) die "unknown argument '$1'" "see --help" 2 ;;
            *) target=$1 ;;
        esac
        shift
    done
}

# Refuses what makes no sense.
check_arguments() {
    case $toolchain in
        auto | rustup | debian) ;;
        *) die "unknown toolchain '$toolchain'" "one of auto, rustup, debian" 2 ;;
    esac
    case $linker in auto | zig | gcc) ;; *) die "unknown linker '$linker'" "one of auto, zig, gcc" 2 ;; esac
    know_target
    case $target in
        *-musl*)
            [ "$linker" != gcc ] || die "gcc links no '$target'" "use --linker zig" 2
            # A static program cannot load the driver's library.
            [[ ,$features, != *,cuda,* ]] || die "no '$target' with the feature cuda" "build for ${target%musl*}gnu" 2
            ;;
    esac
    [[ $max_glibc =~ ^(any|[0-9]+(\.[0-9]+)+)$ ]] ||
        die "--max-glibc '$max_glibc' is not a version" "for example 2.31, or any" 2
    case $target_dir in /*) ;; *) target_dir=$PWD/$target_dir ;; esac
}

# Sets `built`, the stripped binary.
build() {
    say "building $bin for $target ($used toolchain, linked by $linked) in $target_dir"
    local started=$SECONDS strip=$gnu-strip
    # Debian has no package of that name for its own architecture's tools.
    command -v "$strip" >/dev/null || [ "$arch" = amd64 ] || need "$strip" "binutils-$gnu"
    command -v "$strip" >/dev/null || strip="strip"
    (cd "$root" && CARGO_TARGET_DIR=$target_dir CARGO_PROFILE_DIST_STRIP=none "${cargo[@]}" "${std[@]}" \
        --profile "$profile" --locked --features "$features" --bin "$bin" >&2) || die "the build failed"
    built=$target_dir/$target/$profile/$bin
    [ -f "$built" ] ||
        die "cargo left no binary at $built" "is build.target-dir or --artifact-dir set in a cargo config?"
    "$strip" --strip-debug -o "$built.symbols" "$built"
    # Not in place: the file is one with cargo's own in deps/.
    "$strip" -o "$built.stripped" "$built"
    mv "$built.stripped" "$built"
    say "built in $((SECONDS - started)) s"
}

# The newest glibc that the dynamic linker insists on: GLIBC_2.x among the version references.
glibc_of() { # FILE
    readelf --version-info --wide "$1" | grep 'Name: GLIBC_' | grep -v 'Flags: WEAK' | grep -oE 'GLIBC_[0-9.]+' |
        sort -Vu | tail -n 1 | cut -d _ -f 2
}

# The functions of the C library whose version is newer than the limit.
newer_symbols() { # FILE
    local name version
    readelf --dyn-syms --wide "$1" | grep -oE '[A-Za-z0-9_]+@GLIBC_[0-9.]+' | sort -u |
        while IFS=@ read -r name version; do
            ! older "$max_glibc" "${version#GLIBC_}" || echo "$name ${version#GLIBC_}"
        done
}

report() {
    need readelf binutils
    local glibc
    glibc=$(glibc_of "$built") || true
    echo "path   $built"
    echo "bytes  $(stat -c %s "$built")"
    echo "glibc  ${glibc:-none}"
    case $target in
        *-musl*)
            ! readelf --program-headers --wide "$built" | grep -q INTERP ||
                die "the binary needs a dynamic linker" "is crt-static switched off in a cargo config?"
            ;;
    esac
    if [ "$max_glibc" != any ] && [ -n "$glibc" ] && older "$max_glibc" "$glibc"; then
        say "functions that need more: $(newer_symbols "$built" | paste -sd ,)"
        die "the binary needs glibc $glibc, newer than $max_glibc" \
            "--linker zig links against the symbols of $max_glibc"
    fi
    command -v "$gnu-objdump" >/dev/null || [ "$arch" = amd64 ] || need "$gnu-objdump" "binutils-$gnu"
    "$root/scripts/check-baseline.sh" "$built.symbols" >&2
}

read_arguments "$@"
source "$root/scripts/lib/cross.sh"
check_arguments
with_rust
with_linker
build
report
