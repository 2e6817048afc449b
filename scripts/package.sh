#!/usr/bin/env bash
# Makes what people install: .deb packages, static archives and the context of the container image, in target/packages.
#
#   scripts/package.sh [deb|static]... [--arch arm64|amd64]... [--no-build]
#
#   deb         acclimate_VERSION-1_ARCH.deb, against glibc 2.31 (Debian 11, Ubuntu 20.04 and later), without an error
#               of lintian's
#   static      acclimate-VERSION-MACHINE-static.tar.gz with install.sh, and target/packages/oci for the container image
#   --arch      only this one (default: both)
#   --no-build  takes the programs that cross-build.sh left in target/
#
# The maintainer is that of Cargo.toml, or DEBFULLNAME and DEBEMAIL where they are set, as for Debian's own tools.
#
# Default: everything. Programs are built by cross-build.sh; as root the script installs lintian. Manual pages and
# completions are written by a program of the same build, under qemu where it is for another processor. SHA256SUMS lists
# what was made.
set -euo pipefail

say() { echo "package: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/target/packages
arches=()
forms=()
no_build=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --arch)
            case ${2:-} in
                arm64 | amd64) arches+=("$2") ;;
                *) die "--arch '${2:-}' is neither arm64 nor amd64" "see --help" 2 ;;
            esac
            shift
            ;;
        --no-build) no_build=1 ;;
        deb | static) forms+=("$1") ;;
        *) die "unknown argument '$1'" "see --help" 2 ;;
    esac
    shift
done
[ ${#arches[@]} -gt 0 ] || arches=(amd64 arm64)
[ ${#forms[@]} -gt 0 ] || forms=(deb static)
source "$root/scripts/lib/cargo-tool.sh"
version=$(sed -n 's/^version *= *"\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
maintainer=$(sed -n 's/^maintainer = "\(.*\)"/\1/p' "$root/Cargo.toml")
case ${DEBEMAIL:-} in
    '') ;;
    *'<'*'>') maintainer=$DEBEMAIL ;;
    *) maintainer="${DEBFULLNAME:-${maintainer%% <*}} <$DEBEMAIL>" ;;
esac
# The time in every archive: that of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

machine() { case $1 in arm64) echo aarch64 ;; amd64) echo x86_64 ;; esac; }

# Builds for a target in the checkout's own folder, where cargo-deb looks; sets `built`.
program() { # TARGET
    built=$root/target/$1/dist/acclimate
    if [ -n "$no_build" ]; then
        [ -x "$built" ] || die "there is no $built" "scripts/cross-build.sh $1"
        return
    fi
    built=$("$root/scripts/cross-build.sh" "$1" --target-dir "$root/target" | tee /dev/stderr | sed -n 's/^path *//p')
    [ -x "$built" ] || die "no program for $1"
}

# The target of a form: .deb packages use the system's C library.
target_of() { # FORM ARCH
    case $1 in
        deb) echo "$(machine "$2")-unknown-linux-gnu" ;;
        static) echo "$(machine "$2")-unknown-linux-musl" ;;
    esac
}

# Sets `writer` to a command: one of PROGRAMs that starts here, by qemu if none does otherwise.
find_writer() { # PROGRAM...
    local each
    for each in "$@"; do
        writer=("$each")
        ! "${writer[@]}" --version >/dev/null 2>&1 || return 0
    done
    for each in "$@"; do
        writer=(qemu-aarch64-static -L /usr/aarch64-linux-gnu "$each")
        ! "${writer[@]}" --version >/dev/null 2>&1 || return 0
    done
    die "no program of this build starts here" "sudo apt-get install qemu-user-static libc6-arm64-cross, or --arch of \
this machine"
}

# What all forms share: manual pages, completions, units, changelog.
shared() {
    local share=$out/share
    rm -rf "$share"
    mkdir -p "$share/systemd" "$share/completions"
    "${writer[@]}" man "$share/man" >&2
    "${writer[@]}" completions bash >"$share/completions/acclimate.bash"
    "${writer[@]}" completions zsh >"$share/completions/_acclimate"
    "${writer[@]}" completions fish >"$share/completions/acclimate.fish"
    "$root/scripts/units.sh" "$share/systemd"
    {
        echo "acclimate ($version-1) unstable; urgency=medium"
        echo
        echo "  * Version $version; CHANGELOG.md of the source says what is new."
        echo
        echo " -- $maintainer  $(date -R -u -d "@$SOURCE_DATE_EPOCH")"
    } >"$share/changelog"
}

deb() { # ARCH
    local target
    target=$(machine "$1")-unknown-linux-gnu
    tool cargo-deb 3.8.0 || die "cargo-deb was not installed"
    (cd "$root" && cargo deb --no-build --no-strip --profile dist --target "$target" --deb-revision 1 \
        --maintainer "$maintainer" --output "$out/acclimate_$version-1_$1.deb" >&2) || die "cargo-deb failed"
}

# lintian's errors; warnings are shown.
lint() { # DEB
    command -v lintian >/dev/null || {
        [ "$(id -u)" = 0 ] || die "lintian is missing" "sudo apt-get install lintian"
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends lintian >&2 ||
            { apt-get update >&2 && apt-get install -y --no-install-recommends lintian >&2; } ||
            die "could not install lintian"
    }
    say "$(lintian --version)"
    # Debian's own archive alone closes a bug report with a first upload.
    lintian --allow-root --fail-on error --tag-display-limit 0 --suppress-tags initial-upload-closes-no-bugs "$1" >&2 ||
        die "lintian has errors"
}

static() { # ARCH
    local name built=${programs[static $1]}
    name=acclimate-$version-$(machine "$1")-static
    local dir=$out/$name
    rm -rf "$dir"
    install -D -m 755 "$built" "$dir/bin/acclimate"
    mkdir -p "$dir/share/man" "$dir/lib"
    cp -r "$out/share/man" "$dir/share/man/man1"
    cp -r "$out/share/completions" "$dir/share/"
    cp -r "$out/share/systemd" "$dir/lib/"
    install -m 755 "$root/packaging/adapt-homes" "$dir/lib/"
    install -m 755 "$root/packaging/tarball/install.sh" "$dir/"
    install -m 644 "$root"/{README.md,CHANGELOG.md,LICENSE-MIT,LICENSE-APACHE} "$dir/"
    tar --create --gzip --file "$dir.tar.gz" --directory "$out" --sort=name --owner=0 --group=0 --numeric-owner \
        --mtime "@$SOURCE_DATE_EPOCH" "$name"
    rm -rf "$dir"
    install -D -m 755 "$built" "$out/oci/$1/acclimate"
    mkdir -p "$out/oci/homes" "$out/oci/tmp"
    install -m 644 "$root"/packaging/oci/Containerfile "$root"/LICENSE-MIT "$root"/LICENSE-APACHE "$out/oci/"
}

mkdir -p "$out"
declare -A programs
for form in "${forms[@]}"; do
    for arch in "${arches[@]}"; do
        program "$(target_of "$form" "$arch")"
        programs[$form $arch]=$built
    done
done
find_writer "${programs[@]}"
shared
for form in "${forms[@]}"; do
    for arch in "${arches[@]}"; do "$form" "$arch"; done
    [ "$form" != deb ] || for arch in "${arches[@]}"; do lint "$out/acclimate_$version-1_$arch.deb"; done
done
cd "$out"
find . -maxdepth 1 \( -name '*.deb' -o -name '*.tar.gz' \) -printf '%P\n' | sort | xargs sha256sum | tee SHA256SUMS
