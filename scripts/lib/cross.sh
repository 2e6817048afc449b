# Compilers for another processor: Rust's standard library for a target, and a C compiler and linker. Sourced by scripts
# that build for a board; uses `say`, `die` and their `root`, `target`, `toolchain`, `linker`, `max_glibc` and
# `profile`.
cache=${ACCLIMATE_CACHE:-${HOME:?HOME is not set: set ACCLIMATE_CACHE}/.cache/acclimate}/cross
command -v cargo >/dev/null || die "cargo is not on the PATH" "install Rust first: https://rustup.rs"
# The oldest rustc that can build this checkout, as its manifest says.
msrv=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
msrv=${msrv:-1.91}
host=$(rustc -vV 2>/dev/null | sed -n 's/^host: //p')
source "$root/scripts/lib/debian-rust.sh"

older() { [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# Sets `gnu`, Debian's name of the target's binutils and gcc, and `arch`, of its packages.
know_target() {
    case $target in
        aarch64-unknown-linux-*) gnu=aarch64-linux-gnu arch=arm64 ;;
        armv7-unknown-linux-*eabihf) gnu=arm-linux-gnueabihf arch=armhf ;;
        x86_64-unknown-linux-*) gnu=x86_64-linux-gnu arch=amd64 ;;
        *) die "no recipe for target '$target'" "aarch64-unknown-linux-gnu is the 64-bit Pi and Jetson; see --help" 2 ;;
    esac
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
        std+=(--config "profile.$profile.package.$crate.opt-level=3")
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
