# Debian's Rust for a machine that reaches a Debian mirror and nothing else. It has the standard library of
# aarch64-unknown-linux-gnu, and the source of it, from which cargo builds that of any other target.
# Sourced by cross.sh, whose `say`, `older`, `cache` and `msrv` it uses.

# Debian's rustc, its LLVM, the standard libraries of both architectures and their source, unpacked beside each other.
# Proc macros and build scripts run here, so the host's standard library of the same version is needed too. Sets RUSTC.
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

# What is fetched goes to DIR/sysroot, and nothing else stays in DIR.
unpack_debian() { # HOST_ARCH DIR
    local arch=$1 dir=$2 version packages=() file
    mkdir -p "$dir/debs/partial" "$dir/lists/partial" "$dir/apt/archives/partial" "$dir/sysroot"
    # apt with lists of its own, so that the ARM packages are known without adding an architecture to this system.
    local options=(-o "APT::Architecture=$arch" -o "APT::Architectures::=$arch" -o APT::Architectures::=arm64
        -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/apt" -o APT::Sandbox::User= -q)
    say "reading Debian's package lists"
    apt-get "${options[@]}" update >"$dir/apt.log" 2>&1 || { tail -n 5 "$dir/apt.log" >&2; return 1; }
    choose_version "$arch" && choose_packages "$arch" || return 1
    say "fetching rustc $version, its LLVM and the standard libraries for $arch and arm64 (about 180 MB, once)"
    (cd "$dir/debs" && apt-get "${options[@]}" download "${packages[@]}" >>"$dir/apt.log" 2>&1) ||
        { tail -n 5 "$dir/apt.log" >&2; return 1; }
    for file in "$dir"/debs/*.deb; do dpkg-deb -x "$file" "$dir/sysroot" || return 1; done
    rm -rf "$dir/debs" "$dir/lists" "$dir/apt"
}

# Sets `version`, of unpack_debian, to the newest that both architectures have.
choose_version() { # HOST_ARCH
    version=$(comm -12 <(versions "libstd-rust-web-dev:$1" | sort) <(versions libstd-rust-web-dev:arm64 | sort) |
        sort -V | tail -n 1)
    if [ -z "$version" ] || older "${version%%+*}" "$msrv"; then
        say "Debian's rustc-web is ${version:-not offered}; $msrv or newer is needed (bookworm-security has it)"
        return 1
    fi
}

# Sets `packages`, of unpack_debian, to those of its version.
choose_packages() { # HOST_ARCH
    local arch=$1 std llvm lib
    std=$(depends "libstd-rust-web-dev:$arch=$version" 'libstd-rust-web-[0-9.]*')
    llvm=$(depends "$std:$arch=$version" 'libllvm[0-9.]*')
    [ -n "${std:+$llvm}" ] || { say "cannot tell which LLVM rustc-web $version uses"; return 1; }
    packages=("rustc-web:$arch=$version" "$std:$arch=$version" "libstd-rust-web-dev:$arch=$version"
        "libstd-rust-web-dev:arm64=$version" "rust-web-src=$version" "$llvm:$arch")
    for lib in $(libraries "$llvm:$arch"); do
        dpkg-query -W -f '${Status}' "$lib:$arch" 2>/dev/null | grep -q 'ok installed' || packages+=("$lib:$arch")
    done
}

# The first package of that name among those that PACKAGE depends on.
depends() { # PACKAGE NAME
    apt-cache "${options[@]}" show "$1" | sed -n "s/^Depends:.*\\($2\\).*/\\1/p" | head -n 1
}

# The libraries of PACKAGE that this system may lack.
libraries() { # PACKAGE
    apt-cache "${options[@]}" depends --recurse -i --no-suggests --no-conflicts --no-breaks --no-replaces "$1" |
        grep -E '^lib' | grep -v ':' | grep -vE '^(libc6|libgcc-s1|libcrypt1|libllvm.*)$' | sort -u
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
