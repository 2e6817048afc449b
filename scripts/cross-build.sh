#!/usr/bin/env bash
# Builds the acclimate binary (profile dist, default features and bundles) for a board, or for an old desktop.
#
#   scripts/cross-build.sh [TARGET] [--max-glibc 2.31] [--linker auto|zig|gcc] [--toolchain auto|rustup|debian]
#                          [--target-dir DIR] [--bin NAME]
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
#
# As root the script installs what is missing. Downloads are kept in ${ACCLIMATE_CACHE:-~/.cache/acclimate}/cross: a
# second run fetches nothing. Messages go to stderr; the last lines, on stdout, are `path`, `bytes` and `glibc` of the
# stripped binary. Beside it stays NAME.symbols, the same program with names of functions, for check-baseline.sh.
set -euo pipefail

say() { echo "cross-build: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }
value() { [ -n "${2:-}" ] || die "$1 needs a value" "see --help" 2; }

older() { [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=aarch64-unknown-linux-gnu
toolchain=auto
linker=auto
max_glibc=2.31
bin=acclimate
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
            -*) die "unknown argument '$1'" "see --help" 2 ;;
            *) target=$1 ;;
        esac
        shift
    done
}

# Refuses what makes no sense; sets `gnu`, Debian's name of the target's binutils and gcc, and `arch`, of its packages.
check_arguments() {
    case $toolchain in
        auto | rustup | debian) ;;
        *) die "unknown toolchain '$toolchain'" "one of auto, rustup, debian" 2 ;;
    esac
    case $linker in auto | zig | gcc) ;; *) die "unknown linker '$linker'" "one of auto, zig, gcc" 2 ;; esac
    case $target in
        aarch64-unknown-linux-*) gnu=aarch64-linux-gnu arch=arm64 ;;
        armv7-unknown-linux-*eabihf) gnu=arm-linux-gnueabihf arch=armhf ;;
        x86_64-unknown-linux-*) gnu=x86_64-linux-gnu arch=amd64 ;;
        *) die "no recipe for target '$target'" "aarch64-unknown-linux-gnu is the 64-bit Pi and Jetson; see --help" 2 ;;
    esac
    case $target in
        *-musl*) [ "$linker" != gcc ] || die "gcc links no '$target'" "use --linker zig" 2 ;;
    esac
    [[ $max_glibc =~ ^(any|[0-9]+(\.[0-9]+)+)$ ]] ||
        die "--max-glibc '$max_glibc' is not a version" "for example 2.31, or any" 2
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

# Sets `used` to the toolchain that has the target's standard library, and `std` to what cargo needs to build one.
with_rust() {
    std=()
    if [ "$toolchain" != debian ] && [ "$host" = "$target" ]; then
        used=native
    elif [ "$toolchain" != debian ] && with_rustup; then
        used=rustup
    elif [ "$toolchain" != rustup ] && with_debian; then
        used=debian
        [ "$target" = aarch64-unknown-linux-gnu ] || [ "$target" = "$host" ] || with_own_std
    else
        die "no Rust toolchain for $target" "'rustup target add $target' where rustup reaches its server; else a \
Debian bookworm with bookworm-security in its sources; else 'cross build --profile dist --target $target'"
    fi
}

# The standard library from its source: an option that is not stable, for which the compiler has to be told.
with_own_std() {
    used="debian, with its standard library built from source,"
    export RUSTC_BOOTSTRAP=1
    std=(-Z "build-std=std,panic_unwind")
    local crate
    for crate in core alloc std compiler_builtins; do
        std+=(--config "profile.dist.package.$crate.opt-level=3")
    done
}

# Sets `linked` to the linker, and `cargo` to the command that builds with it.
with_linker() {
    cargo=(cargo build --target "$target")
    linked=gcc
    if [ "$linker" != gcc ] && with_zig; then
        linked=zig
        cargo=(cargo-zigbuild zigbuild --target "$target")
        case $target in
            *-gnu*) [ "$max_glibc" = any ] || cargo=(cargo-zigbuild zigbuild --target "$target.$max_glibc") ;;
        esac
        return
    fi
    case $linker$target in
        zig* | auto*-musl*) die "zig could not be fetched from PyPI" "python3 -m pip install ziglang cargo-zigbuild" ;;
    esac
    [ "$host" = "$target" ] || need "$gnu-gcc" "gcc-$gnu" "libc6-dev-$arch-cross"
    command -v cc >/dev/null || need gcc gcc libc6-dev
    [ "$host" = "$target" ] || export_compilers
}

# zig, a compiler and linker with the symbols of every glibc, and cargo's command for it: pinned, from PyPI.
with_zig() {
    local dir=$cache/zig-0.13.0-cargo-zigbuild-0.24.1
    if [ ! -e "$dir/complete" ]; then
        command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 ||
            { [ "$(id -u)" = 0 ] && need pip3 python3-pip; } || { say "python3 -m pip is missing"; return 1; }
        say "fetching zig and cargo-zigbuild from PyPI (about 85 MB, once)"
        mkdir -p "$cache" && rm -rf "$dir" &&
            python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$dir" \
                ziglang==0.13.0.post1 cargo-zigbuild==0.24.1 >&2 && touch "$dir/complete" || return 1
    fi
    export PATH=$dir/bin:$PATH CARGO_ZIGBUILD_ZIG_PATH=$dir/ziglang/zig
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
    say "building $bin for $target ($used toolchain, linked by $linked) in $target_dir"
    local started=$SECONDS strip=$gnu-strip
    # Debian has no package of that name for its own architecture's tools.
    command -v "$strip" >/dev/null || [ "$arch" = amd64 ] || need "$strip" "binutils-$gnu"
    command -v "$strip" >/dev/null || strip="strip"
    (cd "$root" && CARGO_TARGET_DIR=$target_dir CARGO_PROFILE_DIST_STRIP=none "${cargo[@]}" "${std[@]}" --profile dist \
        --locked --features bundles --bin "$bin" >&2) || die "the build failed"
    built=$target_dir/$target/dist/$bin
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
    case $target in
        aarch64-*) "$root/scripts/check-baseline.sh" "$built.symbols" >&2 ;;
    esac
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
with_rust
with_linker
build
report
