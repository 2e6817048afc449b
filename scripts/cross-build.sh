#!/usr/bin/env bash
# Builds the acclimate binary (release, default features and bundles) for an ARM board.
#
#   scripts/cross-build.sh [TARGET] [--max-glibc 2.36] [--toolchain auto|rustup|debian] [--target-dir DIR] [--bin NAME]
#
#   TARGET         aarch64-unknown-linux-gnu (the default, and the only one the debian toolchain covers)
#   --max-glibc    fail when the binary needs a newer glibc than this (default 2.36, Raspberry Pi OS "bookworm";
#                  bullseye has 2.31, Ubuntu 22.04 and JetPack 6 have 2.35). "any" switches the check off.
#   --toolchain    rustup: `rustup target add`. debian: Debian's own rustc and ARM standard library, unpacked into the cache, for
#                  machines that reach a Debian mirror and nothing else. auto (the default): rustup if it works, else debian.
#   --target-dir   where cargo builds (default: CARGO_TARGET_DIR, else target/ of the checkout)
#   --bin          binary to build (default acclimate)
#
# The C compiler and linker come from Debian's gcc-aarch64-linux-gnu; as root the script installs what is missing. Downloads are
# kept in ${ACCLIMATE_CACHE:-~/.cache/acclimate}/cross: a second run fetches nothing. Messages go to stderr; the last lines, on
# stdout, are `path`, `bytes` and `glibc` of the stripped binary. Works from any directory, on any checkout.
set -euo pipefail

say() { echo "cross-build: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }
value() { [ -n "${2:-}" ] || die "$1 needs a value" "see --help" 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=aarch64-unknown-linux-gnu
toolchain=auto
max_glibc=2.36
bin=acclimate
target_dir=${CARGO_TARGET_DIR:-$root/target}
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
cache=${ACCLIMATE_CACHE:-${HOME:?HOME is not set: set ACCLIMATE_CACHE}/.cache/acclimate}/cross
command -v cargo >/dev/null || die "cargo is not on the PATH" "install Rust first: https://rustup.rs"
# The oldest rustc that can build this checkout, as its manifest says.
msrv=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
msrv=${msrv:-1.91}
older() { [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

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

# Debian's rustc, its LLVM and the standard libraries of both architectures, unpacked beside each other. Proc macros and build
# scripts run here, so the host's standard library of the same version is needed too. Sets RUSTC.
with_debian() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    local host_arch
    host_arch=$(dpkg --print-architecture)
    local dir=$cache/debian-$host_arch
    local wrapper=$dir/rustc
    if [ ! -e "$dir/complete" ] || ! "$wrapper" --version >/dev/null 2>&1; then
        mkdir -p "$cache"
        # A folder of our own until it is whole: an interrupted or a second, simultaneous run leaves nothing half done.
        staging=$(mktemp -d "$cache/.staging.XXXXXX")
        trap 'rm -rf "$staging"' EXIT
        unpack_debian "$host_arch" "$staging" || return 1
        rm -rf "$dir" && mv -T "$staging" "$dir" && write_wrapper "$dir" || return 1
        trap - EXIT
        "$wrapper" --version >/dev/null || { say "the unpacked rustc does not run"; return 1; }
        touch "$dir/complete"
    fi
    export RUSTC=$wrapper
    unset RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
    say "using $("$wrapper" --version)"
}

unpack_debian() { # HOST_ARCH DIR
    local arch=$1 dir=$2 version std llvm packages=() lib
    mkdir -p "$dir/debs/partial" "$dir/lists/partial" "$dir/apt/archives/partial" "$dir/sysroot"
    # apt with lists of its own, so that the ARM packages are known without adding an architecture to this system.
    local options=(-o "APT::Architecture=$arch" -o "APT::Architectures::=$arch" -o APT::Architectures::=arm64 -o "Dir::State::lists=$dir/lists"
        -o "Dir::Cache=$dir/apt" -o APT::Sandbox::User= -q)
    say "reading Debian's package lists"
    apt-get "${options[@]}" update >"$dir/apt.log" 2>&1 || { tail -n 5 "$dir/apt.log" >&2; return 1; }
    # The newest version that both architectures have.
    version=$(comm -12 <(versions "libstd-rust-web-dev:$arch" | sort) <(versions libstd-rust-web-dev:arm64 | sort) | sort -V | tail -n 1)
    if [ -z "$version" ] || older "${version%%+*}" "$msrv"; then
        say "Debian's rustc-web is ${version:-not offered}; $msrv or newer is needed (bookworm-security has it)"
        return 1
    fi
    std=$(apt-cache "${options[@]}" show "libstd-rust-web-dev:$arch=$version" | sed -n 's/^Depends:.*\(libstd-rust-web-[0-9.]*\).*/\1/p' | head -n 1)
    llvm=$(apt-cache "${options[@]}" show "$std:$arch=$version" | sed -n 's/^Depends:.*\(libllvm[0-9.]*\).*/\1/p' | head -n 1)
    [ -n "${std:+$llvm}" ] || { say "cannot tell which LLVM rustc-web $version uses"; return 1; }
    packages=("rustc-web:$arch=$version" "$std:$arch=$version" "libstd-rust-web-dev:$arch=$version" "libstd-rust-web-dev:arm64=$version" "$llvm:$arch")
    # LLVM's own libraries, where this system lacks them.
    for lib in $(apt-cache "${options[@]}" depends --recurse -i --no-suggests --no-conflicts --no-breaks --no-replaces "$llvm:$arch" | grep -E '^lib' | grep -v ':' | grep -vE '^(libc6|libgcc-s1|libcrypt1|libllvm.*)$' | sort -u); do
        dpkg-query -W -f '${Status}' "$lib:$arch" 2>/dev/null | grep -q 'ok installed' || packages+=("$lib:$arch")
    done
    say "fetching rustc $version, its LLVM and the standard libraries for $arch and arm64 (about 130 MB, once)"
    (cd "$dir/debs" && apt-get "${options[@]}" download "${packages[@]}" >>"$dir/apt.log" 2>&1) || { tail -n 5 "$dir/apt.log" >&2; return 1; }
    for lib in "$dir"/debs/*.deb; do dpkg-deb -x "$lib" "$dir/sysroot" || return 1; done
    rm -rf "$dir/debs" "$dir/lists" "$dir/apt"
}

versions() { apt-cache "${options[@]}" madison "$1" 2>/dev/null | cut -d '|' -f 2 | tr -d ' '; }

write_wrapper() { # DIR
    local libs=$1/sysroot/usr/lib llvm
    llvm=$(find "$libs" -name 'libLLVM*.so*' | head -n 1)
    [ -n "$llvm" ] || { say "no LLVM in $libs"; return 1; }
    cat >"$1/rustc.new" <<END
#!/bin/sh
LD_LIBRARY_PATH="$(dirname "$llvm"):$libs\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "$1/sysroot/usr/bin/rustc" --sysroot "$1/sysroot/usr" "\$@"
END
    chmod +x "$1/rustc.new"
    mv "$1/rustc.new" "$1/rustc"
}

host=$(rustc -vV 2>/dev/null | sed -n 's/^host: //p')
[ "$host" = "$target" ] || need "$gnu-gcc" "gcc-$gnu" "libc6-dev-$([ "$gnu" = aarch64-linux-gnu ] && echo arm64 || echo armhf)-cross"
command -v cc >/dev/null || need gcc gcc libc6-dev
if [ "$host" = "$target" ]; then
    say "this machine is $target itself: a plain build"
    used=native
elif [ "$toolchain" != debian ] && with_rustup; then
    used=rustup
elif [ "$toolchain" != rustup ] && [ "$target" = aarch64-unknown-linux-gnu ] && with_debian; then
    used=debian
else
    die "no Rust toolchain for $target" "'rustup target add $target' where rustup reaches its server; else a Debian bookworm with bookworm-security in its sources; else 'cross build --release --target $target'"
fi

upper=$(tr 'a-z-' 'A-Z_' <<<"$target")
lower=${target//-/_}
if [ "$used" != native ]; then
    # cc builds tract's assembly kernels; cargo links with the same compiler. A caller's own choice is left alone.
    for pair in "CC_$lower=$gnu-gcc" "AR_$lower=$gnu-ar" "CARGO_TARGET_${upper}_LINKER=$gnu-gcc"; do
        [ -n "$(printenv "${pair%%=*}" || true)" ] || export "${pair?}"
    done
fi
# readelf reads any architecture's files. strip does not: the cross one is used, and it finds nothing left to strip after
# cargo's own `strip = true`.
strip=$gnu-strip
command -v "$strip" >/dev/null || strip="strip"

say "building $bin for $target ($used toolchain) in $target_dir"
started=$SECONDS
(cd "$root" && CARGO_TARGET_DIR=$target_dir cargo build --release --locked --features bundles --target "$target" --bin "$bin" >&2) || die "the build failed"
built=$target_dir/$target/release/$bin
[ -f "$built" ] || die "cargo left no binary at $built" "is build.target-dir or --artifact-dir set in a cargo config?"
"$strip" "$built"
say "built in $((SECONDS - started)) s"

need readelf binutils
# Versions that the dynamic linker insists on: GLIBC_2.x among the version references.
glibc=$(readelf --version-info --wide "$built" | grep 'Name: GLIBC_' | grep -v 'Flags: WEAK' | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1 | cut -d _ -f 2)
[ -n "$glibc" ] || glibc=none
echo "path   $built"
echo "bytes  $(stat -c %s "$built")"
echo "glibc  $glibc"
if [ "$max_glibc" != any ] && [ "$glibc" != none ] && older "$max_glibc" "$glibc"; then
    die "the binary needs glibc $glibc, newer than $max_glibc" "build on an older Debian, or 'cargo zigbuild --release --target $target.$max_glibc'"
fi
