#!/usr/bin/env bash
# Does a package do what it promises on a clean system? Makes a minimal Debian by debootstrap, installs the package in
# it and nothing else, and as the service's user runs the demo and the quick start with pictures: init, predict,
# feedback, train, rollback. Then it trains a home as the nightly service does, upgrades, removes the package and purges
# it, and looks at what is left. A static archive is also installed without root, and its program runs where nothing
# else is.
#
#   scripts/package-test.sh PACKAGE... [--suite bullseye] [--no-demo]
#
#   PACKAGE    a .deb or a static archive (-static.tar.gz), for amd64 or arm64; what this machine cannot run runs under
#              qemu-user-static, by binfmt_misc
#   --suite    Debian's release (default bullseye: glibc 2.31, the oldest that the .deb promises)
#   --no-demo  leaves out the demo of a .deb, which takes minutes under qemu
#
# Needs root. The systems are kept, as archives, in ${ACCLIMATE_CACHE:-~/.cache/acclimate}/roots. Exit code 1: something
# is not as it should be, and is named. scripts/service-test.sh runs the units under systemd.
set -euo pipefail

say() { echo "package-test: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suite=bullseye
demo=1
packages=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --suite) [ -n "${2:-}" ] || die "--suite needs a value" "see --help" 2; suite=$2; shift ;;
        --no-demo) demo= ;;
        -*) die "unknown argument '$1'" "see --help" 2 ;;
        *) [ -f "$1" ] || die "$1 is no file" "scripts/package.sh makes it" 2; packages+=("$1") ;;
    esac
    shift
done
[ ${#packages[@]} -gt 0 ] || die "no package given" "see --help" 2
[ "$(id -u)" = 0 ] || die "this needs root" "sudo $0 ${packages[*]}"
work=$(mktemp -d)
here=
source "$root/scripts/lib/emulate.sh"
source "$root/scripts/lib/debian-root.sh"
source "$root/scripts/lib/archive-test.sh"
[ -z "$demo" ] || need jq jq

clean() {
    [ -z "$here" ] || umount "$here/proc" 2>/dev/null || true
    end_emulation
    rm -rf --one-file-system "$work"
}
trap clean EXIT

inside() {
    chroot "$here" /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive "$@"
}
as_user() { inside runuser -u acclimate -- "$@"; }
check() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then echo "ok    $what"; else echo "WRONG $what"; failed=$((failed + 1)); fi
}
# Everything but what dpkg, adduser and this test keep.
files() {
    (cd "$here" && find . -xdev -path ./proc -prune -o -path ./tmp -prune -o -print) |
        grep -vE '^\./var/(lib/dpkg|log|cache)/|^\./etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$' | sort
}
owner() { [ "$(inside stat -c %U:%G:%a "$1")" = "$2" ]; }
gone() {
    local file
    while read -r file; do [ ! -f "$here$file" ] || { echo "      still there: $file"; return 1; }; done
}

# A home made by walk.sh, trained by the nightly service's own command.
nightly() { # COMMAND...
    # However busy this machine is.
    as_user "$@" --after 1 --max-cpu-pressure 100 --max-memory-pressure 100 --max-temperature 200 || return 1
    as_user acclimate status /var/lib/acclimate/door --json | grep -q '"generation":2'
}

demo() {
    as_user sh -c 'cd /var/lib/acclimate && acclimate demo --json --quiet' >"$work/demo.json" || return 1
    jq -r '"      accuracy \(.mean_base * 1000 | round / 1000) before, \(.mean_adapted * 1000 | round / 1000) after"' \
        "$work/demo.json" && jq -e '.mean_adapted > .mean_base' "$work/demo.json" >/dev/null
}

new_feedback() {
    as_user sh -c 'cd /tmp && acclimate -q predict /var/lib/acclimate/door \
        models/digits/feedback/8/1.png >/dev/null &&
        acclimate -q feedback /var/lib/acclimate/door last --label 8 >/dev/null'
}

# Makes the clean system, and lists its files.
begin() { # ARCH
    [ "$1" = "$(dpkg --print-architecture)" ] || emulate "$1"
    here=$work/$1
    make_root "$suite" "$1" adduser "$here"
    mount -t proc proc "$here/proc"
    cp -r "$root/models" "$root/scripts/lib/walk.sh" "$here/tmp/"
    files >"$work/before"
}
finish() {
    umount "$here/proc"
    rm -rf --one-file-system "$here"
    here=
    [ "$failed" = 0 ] || die "$failed checks failed"
}

try_deb() { # DEB
    local deb=$1 arch package=acclimate
    arch=$(dpkg-deb --field "$deb" Architecture)
    failed=0
    say "$(basename "$deb") on a clean $suite, $arch"
    begin "$arch"
    cp "$deb" "$here/tmp/acclimate.deb"

    check "installs" inside dpkg --install /tmp/acclimate.deb
    check "the program starts" inside acclimate --version
    check "the user's folder" owner /var/lib/acclimate acclimate:acclimate:750
    check "the timer is on" test -L "$here/etc/systemd/system/timers.target.wants/acclimate-train.timer"
    check "the watching service is off" test ! -e "$here/etc/systemd/system/multi-user.target.wants"
    inside dpkg --listfiles $package >"$work/listed"
    check "manual pages" grep -qx /usr/share/man/man1/acclimate-train.1.gz "$work/listed"
    check "completions" grep -qx /usr/share/bash-completion/completions/acclimate "$work/listed"
    if [ -n "$demo" ]; then
        check "the demo learns, as the service's user" demo
    fi
    check "the quick start, as the service's user" as_user sh /tmp/walk.sh /tmp/models /var/lib/acclimate/door
    # New feedback, for the night.
    check "new feedback" new_feedback
    check "the nightly training" nightly /usr/lib/acclimate/adapt-homes /var/lib/acclimate
    check "a second installation" inside dpkg --install /tmp/acclimate.deb
    check "keeps the home" as_user acclimate -q verify /var/lib/acclimate/door

    check "removal" inside dpkg --remove $package
    check "removes its files" gone <"$work/listed"
    check "keeps the homes" test -f "$here/var/lib/acclimate/door/acclimate.toml"
    check "purge" inside dpkg --purge $package
    check "deletes the homes" test ! -e "$here/var/lib/acclimate"
    check "leaves nothing" diff "$work/before" <(files)
    check "the user stays" inside getent passwd acclimate
    finish
}

for package in "${packages[@]}"; do
    case $package in
        *.deb) try_deb "$package" ;;
        *) try_archive "$package" ;;
    esac
done
say "all is as it should be"
