#!/bin/sh
# Installs what lies beside this script: the program, its manual pages and completions.
#
#   ./install.sh [--prefix /usr/local] [--service]
#   ./install.sh --uninstall [--prefix /usr/local] [--purge]
#
#   --service    also the user `acclimate`, /var/lib/acclimate and the systemd units (as root, on a system with
#                systemd); the nightly training is switched on
#   --uninstall  removes what was installed and keeps /var/lib/acclimate
#   --purge      deletes /var/lib/acclimate and /etc/default/acclimate, too
#
# A power cut leaves each file as it was, or whole and new; the script, run again, completes what is missing.
# DESTDIR is put before every path, and then no user is made and no unit is started.
set -eu

say() { echo "install: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

here=$(cd "$(dirname "$0")" && pwd)
prefix=/usr/local
service=
uninstall=
purge=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        --prefix) [ $# -gt 1 ] || die "--prefix needs a folder" "see --help" 2; prefix=$2; shift ;;
        --service) service=1 ;;
        --uninstall) uninstall=1 ;;
        --purge) purge=1 ;;
        *) die "unknown argument '$1'" "see --help" 2 ;;
    esac
    shift
done
case $prefix in /*) ;; *) die "--prefix '$prefix' is no absolute path" "" 2 ;; esac
[ -z "$purge" ] || [ -n "$uninstall" ] || die "--purge goes with --uninstall" "see --help" 2
to=${DESTDIR:-}$prefix
case $to in *[[:space:]\|\&\\]*) die "'$to' has a blank or one of | & \\ in it" "choose another folder" 2 ;; esac
case $service$prefix in 1/home/* | 1/root/*) die "--service: no prefix in a home" "leave --prefix out" 2 ;; esac
units=${DESTDIR:-}/etc/systemd/system
all_units="acclimate-train.service acclimate-train.timer acclimate-adapt.service"
with_systemd() { [ -z "${DESTDIR:-}" ] && [ -d /run/systemd/system ]; }

# Where each file of the archive goes.
files() {
    echo "bin/acclimate $to/bin/acclimate 755"
    for page in "$here"/share/man/man1/*.1; do
        echo "share/man/man1/${page##*/} $to/share/man/man1/${page##*/} 644"
    done
    echo "share/completions/acclimate.bash $to/share/bash-completion/completions/acclimate 644"
    echo "share/completions/_acclimate $to/share/zsh/site-functions/_acclimate 644"
    echo "share/completions/acclimate.fish $to/share/fish/vendor_completions.d/acclimate.fish 644"
    echo "lib/adapt-homes $to/lib/acclimate/adapt-homes 755"
}

if [ -n "$uninstall" ]; then
    if with_systemd && [ -e "$units/acclimate-train.timer" ]; then
        systemctl disable --now acclimate-train.timer acclimate-adapt.service || true
        systemctl stop acclimate-train.service || true
    fi
    files | while read -r _ file _; do rm -f "$file" "$file.new"; done
    for unit in $all_units; do rm -f "$units/$unit" "$units/$unit.new"; done
    rmdir "$to/lib/acclimate" 2>/dev/null || true
    ! with_systemd || systemctl daemon-reload
    if [ -n "$purge" ]; then
        # A disk that is mounted within is not deleted.
        rm -rf --one-file-system "${DESTDIR:-}/var/lib/acclimate"
        rm -f "${DESTDIR:-}/etc/default/acclimate"
        say "removed, with all homes"
    else
        say "removed; homes under ${DESTDIR:-}/var/lib/acclimate are kept (--purge deletes them)"
    fi
    exit 0
fi

"$here/bin/acclimate" --version >/dev/null 2>&1 ||
    die "bin/acclimate does not run here: this archive is not for $(uname -m)" "fetch the archive for $(uname -m)"
# Under other names first, which a failure removes; they get theirs when all are durable.
trap 'files | while read -r _ file _; do rm -f "$file.new"; done; rm -f "$units"/acclimate-*.new' EXIT
files | while read -r from file mode; do
    install -D -m "$mode" "$here/$from" "$file.new"
done
if [ -n "$service" ]; then
    if [ -z "${DESTDIR:-}" ]; then
        [ "$(id -u)" = 0 ] || die "--service needs root" "sudo ./install.sh --service"
        getent passwd acclimate >/dev/null ||
            useradd --system --user-group --home-dir /var/lib/acclimate --no-create-home \
                --shell /usr/sbin/nologin acclimate
        install -d -m 750 -o acclimate -g acclimate /var/lib/acclimate
    fi
    mkdir -p "$units"
    for unit in $all_units; do
        sed -e "s|/usr/lib/acclimate/|$prefix/lib/acclimate/|" \
            -e "s|^\[Service\]|&\nEnvironment=ACCLIMATE=$prefix/bin/acclimate|" \
            "$here/lib/systemd/$unit" >"$units/$unit.new"
        chmod 644 "$units/$unit.new"
    done
fi
sync
files | while read -r _ file _; do mv -f "$file.new" "$file"; done
if [ -n "$service" ]; then
    for unit in $all_units; do mv -f "$units/$unit.new" "$units/$unit"; done
fi
sync
if [ -n "$service" ] && with_systemd; then
    systemctl daemon-reload
    systemctl enable --now acclimate-train.timer
    # Only where it runs.
    systemctl try-restart acclimate-adapt.service
fi
say "installed $("$here/bin/acclimate" --version) in $to"
