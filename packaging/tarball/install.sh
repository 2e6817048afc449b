#!/bin/sh
# Installs what lies beside this script: the program, its manual pages and completions. Over an older version it is an
# upgrade.
#
#   ./install.sh [--prefix /usr/local] [--service]
#   ./install.sh --uninstall [--prefix /usr/local] [--purge]
#
#   --service    also the user `acclimate`, /var/lib/acclimate and the systemd units (as root); the first time, the
#                nightly training is switched on; an upgrade of a prefix that has the units needs it not
#   --uninstall  removes what was installed under the prefix and keeps /var/lib/acclimate
#   --purge      deletes /var/lib/acclimate and /etc/default/acclimate, too
#
# A power cut leaves each file as it was, or whole and new; the script, run again, completes what is missing.
# DESTDIR is put before every path, and then no user is made and no unit is started.
set -euf
umask 022

say() { echo "install: $*" >&2; }
die() { say "$1"; [ -z "${2:-}" ] || say "hint: $2"; exit "${3:-1}"; }

here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
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
while [ "${prefix%/}" != "$prefix" ]; do prefix=${prefix%/}; done
[ -z "$purge" ] || [ -n "$uninstall" ] || die "--purge goes with --uninstall" "see --help" 2
root=${DESTDIR:-}
to=$root$prefix
case $to in *[[:space:]\|\&\\]*) die "'$to' has a blank or one of | & \\ in it" "choose another folder" 2 ;; esac
case $service$prefix in 1/home/* | 1/root/*) die "--service: no prefix in a home" "leave --prefix out" 2 ;; esac
units=$root/etc/systemd/system
# The first one says whose they are: it comes first and goes last.
all_units="acclimate-train.service acclimate-train.timer acclimate-adapt.service"
state=$root/var/lib/acclimate
# What was installed, relative to the prefix. A name with / at its end is a folder that was made for it; `./` is the
# prefix itself. Lines with # are marks, which are compared and never used as a path.
list=$to/lib/acclimate/installed
enabled="# the timer was switched on"
booted() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# Where each file of the archive goes.
files() {
    echo "bin/acclimate bin/acclimate 755"
    ls "$here/share/man/man1" | while read -r page; do
        echo "share/man/man1/$page share/man/man1/$page 644"
    done
    echo "share/completions/acclimate.bash share/bash-completion/completions/acclimate 644"
    echo "share/completions/_acclimate share/zsh/site-functions/_acclimate 644"
    echo "share/completions/acclimate.fish share/fish/vendor_completions.d/acclimate.fish 644"
    echo "lib/adapt-homes lib/acclimate/adapt-homes 755"
}
installs() { files | while read -r _ file _; do echo "$file"; done; }

# Also what an installation that was cut off was about to write. A last line that was cut off is left out.
listed() {
    for part in "$list" "$list.new"; do
        [ ! -f "$part" ] || while read -r file; do
            case $file in
                /* | .. | ../* | */.. | */../*) say "$part: '$file' is not under the prefix: left alone" ;;
                *) echo "$file" ;;
            esac
        done <"$part"
    done
}
marked() { [ -f "$list" ] && grep -qxF "$1" "$list"; }
mark() {
    ! marked "$1" || return 0
    { cat "$list" && echo "$1"; } >"$list.new" || die "$list cannot be written" "is the disk full?"
    sync
    mv -f "$list.new" "$list"
}

# Are the units those of this prefix, by whatever links it was named?
ours() {
    [ -f "$units/acclimate-train.service" ] || return 1
    program=$(sed -n 's/^Environment=ACCLIMATE=//p' "$units/acclimate-train.service")
    [ -n "$program" ] && [ "$(real "${program%/bin/acclimate}")" = "$(real "$prefix")" ]
}
real() { readlink -f "$root$1" 2>/dev/null || echo "$root$1"; }
# Units of another prefix, or of a .deb.
others() {
    for folder in "$units" "$root/usr/lib/systemd/system" "$root/lib/systemd/system"; do
        [ "$folder" != "$units" ] || ! ours || continue
        [ ! -f "$folder/acclimate-train.service" ] || echo "$folder/acclimate-train.service"
    done
}

make_folder() { # DIR, relative to the prefix
    [ ! -d "$to/$1" ] || return 0
    if [ "$1" = . ]; then
        mkdir -p "$to"
    else
        make_folder "$(dirname "$1")"
        mkdir "$to/$1"
    fi || die "$to/$1 cannot be made" "sudo ./install.sh, or --prefix with a folder of your own"
    made="$made$1/
"
}

# An installation that fails leaves nothing beside the files. Where it fails while they get their places, the list that
# is to come names them for the next run.
undo() {
    for unit in $all_units; do [ ! -f "$units/$unit.new" ] || rm -f "$units/$unit.new"; done
    [ -z "$placing" ] || return 0
    for file in $(installs); do rm -f "$to/$file.new"; done
    rm -f "$list.part" "$list.new"
    remove_folders "$made"
}
remove_folders() { # NAMES: the longest first, so that a folder comes before the one it is in
    for folder in $(echo "$1" | grep '/$' | sort -ru); do rmdir "$to/${folder#./}" 2>/dev/null || true; done
}

# Copies everything beside its place first: a power cut leaves the old files or the new ones, and no half of any.
install_files() {
    for folder in $(installs | while read -r file; do dirname "$file"; done | sort -u); do make_folder "$folder"; done
    [ -w "$to/bin" ] || die "$to/bin cannot be written" "sudo ./install.sh, or --prefix with a folder of your own"
    old=$(listed | sort -u)
    # The whole list is there before the first file is.
    { installs && echo "${list#"$to/"}" && printf '%s\n%s' "$old" "$made" | { grep -E '^#|/$' || true; }; } \
        >"$list.part" && sync && mv -f "$list.part" "$list.new" &&
        files | while read -r from file mode; do
            cp "$here/$from" "$to/$file.new" && chmod "$mode" "$to/$file.new" || exit 1
        done || die "the files could not be copied to $to" "is the disk full?"
    sync
    placing=1
    for file in $(installs); do mv -f "$to/$file.new" "$to/$file"; done
    # What the version before had and this one has not.
    echo "$old" | while read -r file; do
        case $file in
            '' | */ | '#'*) ;;
            *) grep -qxF "$file" "$list.new" || rm -f "$to/$file" "$to/$file.new" ;;
        esac
    done
    sync
    mv -f "$list.new" "$list"
    placing=
    made=
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
        # It has its place when it has its owner.
        mkdir -p "$state.new" && chown acclimate:acclimate "$state.new" && chmod 750 "$state.new" &&
            mv "$state.new" "$state" || die "$state could not be made"
    fi
}

install_units() {
    first=1
    # A link to /dev/null, which Debian leaves for a package that was removed, is no unit.
    ! marked "$enabled" || [ ! -f "$units/acclimate-train.timer" ] || first=
    for folder in /etc /etc/systemd /etc/systemd/system; do
        if [ ! -d "$root$folder" ]; then
            mark "# made $folder"
            mkdir "$root$folder"
        fi
    done
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
        if [ -n "$first" ]; then
            systemctl enable --now acclimate-train.timer
            mark "$enabled"
        fi
        systemctl try-restart acclimate-adapt.service
    elif [ -z "$root" ]; then
        if [ -n "$first" ] && command -v systemctl >/dev/null && systemctl enable acclimate-train.timer; then
            mark "$enabled"
        fi
        say "systemd does not run here: the units are in $units, and nothing was started"
        say "without systemd, for example by cron (a line for /etc/cron.d/acclimate):"
        say "  0 3 * * * acclimate ACCLIMATE=$prefix/bin/acclimate $prefix/lib/acclimate/adapt-homes $state --after 1"
    fi
}

remove_units() {
    [ -w "$units" ] || die "$units cannot be written" "sudo ./install.sh --uninstall"
    if booted; then
        systemctl disable --now acclimate-train.timer acclimate-adapt.service || true
        systemctl stop acclimate-train.service || true
    fi
    for link in timers.target.wants/acclimate-train.timer multi-user.target.wants/acclimate-adapt.service; do
        rm -f "$units/$link"
        rmdir "$units/${link%/*}" 2>/dev/null || true
    done
    for unit in acclimate-adapt.service acclimate-train.timer acclimate-train.service; do
        rm -f "$units/$unit" "$units/$unit.new"
    done
    ! booted || systemctl daemon-reload
}

remove() {
    kept=$(others | head -n 1)
    [ -z "$purge" ] || [ -z "$kept" ] || die "$state belongs to another installation, too: $kept" "leave --purge out"
    if ours; then remove_units; fi
    all=$(listed)
    [ -n "$all" ] || say "nothing is installed in $to"
    echo "$all" | while read -r file; do
        case $file in
            '' | */ | '#'* | lib/acclimate/installed) ;;
            *) rm -f "$to/$file" "$to/$file.new" || exit 1 ;;
        esac
    done || die "not everything in $to could be removed" "sudo ./install.sh --uninstall"
    [ -z "$all" ] || sync
    rm -f "$list.part" "$list.new" "$list"
    remove_folders "$all"
    for folder in /etc/systemd/system /etc/systemd /etc; do
        ! echo "$all" | grep -qxF "# made $folder" || rmdir "$root$folder" 2>/dev/null || true
    done
    if [ -n "$purge" ]; then
        rm -f "$root/etc/default/acclimate" "$root/var/lib/systemd/timers/stamp-acclimate-train.timer"
        # It may be a link or a mounted disk, which is emptied. A disk that is mounted within is not.
        find "$state/" -xdev -mindepth 1 -delete 2>/dev/null || {
            # Some BusyBoxes have no -delete.
            find "$state/" -xdev -mindepth 1 ! -type d -exec rm -f {} +
            find "$state/" -xdev -mindepth 1 -depth -type d -exec rmdir {} +
        } 2>/dev/null || true
        rmdir "$state" 2>/dev/null || [ ! -d "$state" ] || [ -z "$(ls -A "$state/")" ] ||
            die "$state is not empty yet" "is a disk mounted in it? are you root?"
        say "removed, with all homes"
    elif [ -d "$state" ] && [ -z "$kept" ]; then
        say "removed; homes under $state are kept (--purge deletes them)"
    else
        say "removed"
    fi
}

# The list says what is deleted, so root follows none that somebody else could write.
for part in "$list" "$list.new"; do
    [ ! -e "$part" ] || [ -z "$(find "$part" ! -user "$(id -u)")" ] ||
        die "$part belongs to another user" "run this as that user: with sudo if it is root, without if it is you"
done
if [ -n "$uninstall" ]; then
    remove
    exit 0
fi
! ours || service=1
[ -z "$service" ] || [ -n "$root" ] || [ "$(id -u)" = 0 ] || die "--service needs root" "sudo ./install.sh --service"
"$here/bin/acclimate" --version >/dev/null 2>&1 || die "bin/acclimate does not run here" \
    "is this the archive for $(uname -m)? is $here on a disk that may run programs (no noexec)?"
made=
placing=
trap undo EXIT
trap 'exit 1' HUP INT TERM
install_files
if [ -n "$service" ]; then
    [ -n "$root" ] || make_user
    install_units
fi
say "installed $("$here/bin/acclimate" --version) in $to"
