#!/usr/bin/env bash
# Writes the systemd units into DIR, each with the sandbox that they share, and lets systemd check them.
#
#   scripts/units.sh DIR
#   scripts/units.sh --check      # writes them to a folder of its own, and verifies them and their exposure
#
# Exit code 1: systemd-analyze finds fault, or an exposure above 2.0 (0: all is closed off, 10: nothing is). Without
# systemd-analyze the check is skipped with a message.
set -euo pipefail

say() { echo "units: $*" >&2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

write() { # DIR
    local unit
    mkdir -p "$1"
    for unit in "$root"/packaging/systemd/acclimate-*; do
        sed -e "/^@SANDBOX@$/{
            r $root/packaging/systemd/sandbox.conf
            d
        }" "$unit" >"$1/${unit##*/}"
        chmod 644 "$1/${unit##*/}"
    done
}

# Verified in a folder that has the programs where a package puts them.
check() {
    local status=0 service exposure
    command -v systemd-analyze >/dev/null || { say "systemd-analyze is missing: the units are not checked"; return 0; }
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    write "$work/units"
    sed -i "s|=/usr/lib/acclimate/|=$root/packaging/|" "$work"/units/*.service
    # Pages that are not installed here are no fault of a unit.
    systemd-analyze verify --man=no "$work"/units/acclimate-* || status=1
    for service in train adapt; do
        exposure=$(systemd-analyze security --offline=true --no-pager "$work/units/acclimate-$service.service" |
            sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\) .*/\1/p')
        echo "acclimate-$service.service: exposure ${exposure:-unknown}"
        awk -v e="${exposure:-10}" 'BEGIN { exit !(e <= 2.0) }' || status=1
    done
    return "$status"
}

case ${1:-} in
    '' | -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; [ -n "${1:-}" ] || exit 2 ;;
    --check) check ;;
    -*) say "unknown argument '$1'"; exit 2 ;;
    *) write "$1" ;;
esac
