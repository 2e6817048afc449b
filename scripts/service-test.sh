#!/usr/bin/env bash
# Do the systemd units of a .deb work? Boots a minimal Debian with systemd in a container of its own (systemd-nspawn),
# installs the package there, trains homes by acclimate-train.service, stops it in the middle, lets
# acclimate-adapt.service watch, and removes the package.
# For the test a system call that the unit's filter forbids kills, so none can fail unnoticed.
#
#   scripts/service-test.sh DEB [--suite bullseye]
#
#   DEB       for the architecture of this machine
#   --suite   Debian's release (default bullseye)
#
# Needs root. Exit code 1: something is not as it should be, and is named.
set -euo pipefail

say() { echo "service-test: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suite=bullseye
deb=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --suite) [ -n "${2:-}" ] || die "--suite needs a value" "see --help" 2; suite=$2; shift ;;
        -*) die "unknown argument '$1'" "see --help" 2 ;;
        *) deb=$1 ;;
    esac
    shift
done
[ -f "$deb" ] || die "no package given, or '$deb' is no file" "scripts/package.sh deb makes it" 2
[ "$(id -u)" = 0 ] || die "this needs root" "sudo $0 $deb"
source "$root/scripts/lib/debian-root.sh"
arch=$(dpkg --print-architecture)
[ "$(dpkg-deb --field "$deb" Architecture)" = "$arch" ] || die "$deb is not for $arch" "" 2
need systemd-nspawn systemd-container
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
here=$work/root
make_root "$suite" "$arch" systemd,adduser,dbus "$here"
mkdir -p "$here/test"
cp -r "$root/models" "$root/scripts/lib/walk.sh" "$here/test/"
cp "$deb" "$here/test/acclimate.deb"
cp "$root/scripts/lib/service-test-inside.sh" "$here/test/inside.sh"
cat >"$here/etc/systemd/system/service-test.service" <<'END'
[Unit]
After=basic.target dbus.service
Wants=dbus.service
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
ExecStart=/bin/bash -c '/bin/bash /test/inside.sh >/test/log 2>&1; echo $? >/test/status'
END
ln -s multi-user.target "$here/etc/systemd/system/default.target"
mkdir -p "$here/etc/systemd/system/multi-user.target.wants"
ln -s ../service-test.service "$here/etc/systemd/system/multi-user.target.wants/service-test.service"
say "booting $suite"
timeout 300 systemd-nspawn --quiet --register=no --keep-unit --boot --directory "$here" >"$work/console" 2>&1 || true
[ -f "$here/test/status" ] || { tail -n 20 "$work/console" >&2; die "the system did not come to its test"; }
cat "$here/test/log"
[ "$(cat "$here/test/status")" = 0 ] || die "the units do not work"
say "all is as it should be"
