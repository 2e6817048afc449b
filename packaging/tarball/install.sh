#!/bin/sh
# Installs what lies beside this script: the program, its manual pages and completions. Over an older version it is an
# upgrade.
#
#   ./install.sh [--prefix /usr/local] [--service]
#   ./install.sh --uninstall [--prefix /usr/local] [--purge]
#
#   --service    also the user `acclimate`, /var/lib/acclimate and the systemd units (as root); the first time, the
#                nightly training is switched on
#   --uninstall  removes what was installed and keeps /var/lib/acclimate
#   --purge      deletes /var/lib/acclimate and /etc/default/acclimate, too
#
# A power cut leaves each file as it was, or whole and new; the script, run again, completes what is missing.
# DESTDIR is put before every path, and then no user is made and no unit is started.
set -euf
umask 022

say() { echo "install: $*" >&2; }
die() { say "$1"; [ -z "${2:-}" ] || say "hint: $2"; exit "${3:-1}"; }

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
state=${DESTDIR:-}/var/lib/acclimate
# Every file that was installed; a name with / at its end is a folder that was made for them.
list=$to/lib/acclimate/installed
booted() { [ -z "${DESTDIR:-}" ] && [ -d /run/systemd/system ]; }

# Where each file of the archive goes.
files() {
    echo "bin/acclimate $to/bin/acclimate 755"
    ls "$here/share/man/man1" | while read -r page; do
        echo "share/man/man1/$page $to/share/man/man1/$page 644"
    done
    echo "share/completions/acclimate.bash $to/share/bash-completion/completions/acclimate 644"
    echo "share/completions/_acclimate $to/share/zsh/site-functions/_acclimate 644"
    echo "share/completions/acclimate.fish $to/share/fish/vendor_completions.d/acclimate.fish 644"
    echo "lib/adapt-homes $to/lib/acclimate/adapt-homes 755"
}
listed() { [ ! -f "$list" ] || cat "$list"; }

make_folder() { # DIR
    [ ! -d "$1" ] || return 0
    make_folder "$(dirname "$1")"
    mkdir "$1" || die "$1 cannot be made" "sudo ./install.sh, or --prefix with a folder of your own"
    made="$made$1/
"
}

# Copies everything beside its place first: a power cut leaves the old files or the new ones, and no half of any.
install_files() {
    made=
    for folder in $(files | while read -r _ file _; do dirname "$file"; done | sort -u); do
        make_folder "$folder"
    done
    [ -w "$to/bin" ] || die "$to/bin cannot be written" "sudo ./install.sh, or --prefix with a folder of your own"
    old=$(listed)
    # Longest first, so that a folder comes before the one it is in.
    { files | while read -r _ file _; do echo "$file"; done; echo "$list"; { echo "$old"; printf '%s' "$made"; } |
        grep '/$' | sort -ru; } >"$list.new"
    files | while read -r from file mode; do
        cp "$here/$from" "$file.new" && chmod "$mode" "$file.new" || exit 1
    done || die "the files could not be copied to $to" "is the disk full?"
    sync
    files | while read -r _ file _; do mv -f "$file.new" "$file"; done
    mv -f "$list.new" "$list"
    # What the version before had and this one has not.
    echo "$old" | while read -r file; do
        case $file in '' | */) ;; *) grep -qxF "$file" "$list" || rm -f "$file" ;; esac
    done
    sync
}

make_user() {
    if ! grep -q '^acclimate:' /etc/passwd && ! getent passwd acclimate >/dev/null 2>&1; then
        if command -v useradd >/dev/null; then
            useradd --system --user-group --home-dir "$state" --no-create-home --shell /usr/sbin/nologin acclimate
        else
            # BusyBox, as on Alpine.
            addgroup -S acclimate && adduser -S -D -H -h "$state" -s /sbin/nologin -G acclimate acclimate
        fi || die "the user 'acclimate' could not be made" "make it by the tools of this system, then run this again"
    fi
    if [ ! -d "$state" ]; then
        mkdir -p "$state" && chown acclimate:acclimate "$state" && chmod 750 "$state"
    fi
}

install_units() {
    first=1
    [ ! -e "$units/acclimate-train.timer" ] || first=
    made=
    make_folder "$units"
    printf '%s' "$made" >>"$list"
    for unit in $all_units; do
        sed -e "s|/usr/lib/acclimate/|$prefix/lib/acclimate/|" \
            -e "s|^\[Service\]|&\nEnvironment=ACCLIMATE=$prefix/bin/acclimate|" \
            "$here/lib/systemd/$unit" >"$units/$unit.new"
        chmod 644 "$units/$unit.new"
    done
    sync
    for unit in $all_units; do mv -f "$units/$unit.new" "$units/$unit"; done
    sync
    if booted; then
        systemctl daemon-reload
        # Off stays off: an administrator's choice outlives an upgrade.
        [ -z "$first" ] || systemctl enable --now acclimate-train.timer
        systemctl try-restart acclimate-adapt.service
    elif [ -z "${DESTDIR:-}" ]; then
        [ -z "$first" ] || ! command -v systemctl >/dev/null || systemctl enable acclimate-train.timer || true
        say "systemd does not run here: the units are in $units, and nothing was started"
        say "without systemd, for example by cron (a line for /etc/cron.d/acclimate):"
        say "  0 3 * * * acclimate ACCLIMATE=$prefix/bin/acclimate $prefix/lib/acclimate/adapt-homes $state --after 1"
    fi
}

remove() {
    if booted && [ -e "$units/acclimate-train.timer" ]; then
        systemctl disable --now acclimate-train.timer acclimate-adapt.service || true
        systemctl stop acclimate-train.service || true
    fi
    for unit in $all_units; do rm -f "$units/$unit" "$units/$unit.new"; done
    rm -f "$units/timers.target.wants/acclimate-train.timer" "$units/multi-user.target.wants/acclimate-adapt.service"
    all=$({ files | while read -r _ file _; do echo "$file"; done; echo "$list"; listed; })
    echo "$all" | while read -r file; do
        case $file in
            */) rmdir "$file" 2>/dev/null || true ;;
            *) rm -f "$file" "$file.new" || exit 1 ;;
        esac
    done || die "not everything in $to could be removed" "sudo ./install.sh --uninstall"
    ! booted || systemctl daemon-reload
    if [ -n "$purge" ]; then
        # A disk that is mounted within is not deleted.
        rm -f "${DESTDIR:-}/etc/default/acclimate"
        find "$state" -xdev -mindepth 1 -delete 2>/dev/null || true
        rmdir "$state" 2>/dev/null || [ ! -d "$state" ] || die "$state is not empty yet" "is a disk mounted in it?"
        say "removed, with all homes"
    elif [ -d "$state" ]; then
        say "removed; homes under $state are kept (--purge deletes them)"
    else
        say "removed"
    fi
}

if [ -n "$uninstall" ]; then
    remove
    exit 0
fi
[ -z "$service" ] || [ -n "${DESTDIR:-}" ] || [ "$(id -u)" = 0 ] ||
    die "--service needs root" "sudo ./install.sh --service"
"$here/bin/acclimate" --version >/dev/null 2>&1 || die "bin/acclimate does not run here" \
    "is this the archive for $(uname -m)? is $here on a disk that may run programs (no noexec)?"
install_files
if [ -n "$service" ]; then
    [ -n "${DESTDIR:-}" ] || make_user
    install_units
fi
say "installed $("$here/bin/acclimate" --version) in $to"
