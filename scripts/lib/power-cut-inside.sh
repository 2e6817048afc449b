#!/bin/bash
# The first process of the machine whose power power-cut.sh cuts. Says what the last cut has left, then uses the
# program without end, and says what is about to be done and what the program acknowledged. Words go to the second
# serial line, which the host reads; what was said is there when `say` returns.
#
# On the kernel's command line: pc.phase=init|use|train|adapt|upgrade|install|end and pc.first=N, a number that no home
# has yet.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C.UTF-8 HOME=/root DEBIAN_FRONTEND=noninteractive
state=/var/lib/acclimate
test=/test
words=/dev/ttyS1
option() { sed -n "s/.*\bpc\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
phase=$(option phase)
next=$(option first)
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
chmod 1777 /tmp
stty -F $words raw -echo
exec 3>$words
# stty returns when all that was written before has left the machine.
say() { printf '%s\n' "$*" >&3; stty -F $words raw; }
bad() { say "bad $*"; }
# Where power-cut.sh has put a library that takes the program's flushes away.
preload=
[ ! -f "$test/no-flush.so" ] || preload=LD_PRELOAD=$test/no-flush.so
as_user() { runuser -u acclimate -- env $preload "$@"; }
# Runs the program; its output is in `out`. What it must not answer is said.
run() { # ARG...
    out=$(as_user acclimate --quiet "$@" --json 2>/tmp/err) ||
        bad "acclimate $*: exit code $?: $(tail -n 3 /tmp/err | tr '\n' ' ') $out"
}
field() { grep -o "\"$1\":\"\{0,1\}[-0-9a-z]*" <<<"$out" | head -n 1 | sed 's/.*[:"]//'; }
pictures=("$test"/models/digits/feedback/*/*.png)
any() { echo "${pictures[RANDOM % ${#pictures[@]}]}"; }

# What is there.
look() { # HOME
    local name=${1##*/} what
    if [ ! -f "$1/acclimate.toml" ]; then
        # A folder without settings is no home, and can become one.
        say "found $name nothing"
        run init "$1" --model "$test/models/digits_cnn.onnx"
        say "found $name completed"
    fi
    for what in verify status interactions history; do
        # Of a home that nobody has asked yet there is nothing else to see.
        case $what in status | history) [ -d "$1/profiles" ] || continue ;; esac
        run "$what" "$1"
        say "found $name $what $out"
    done
    [ ! -d "$1/profiles" ] || run predict "$1" "$(any)"
}
unfinished() { find "$1" -name '.*.tmp' | tr '\n' ' '; }
program() { # WHAT PROGRAM
    if "$2" --version >/tmp/out 2>&1; then
        say "found $1 $(cat /tmp/out)"
    else
        bad "$2 does not run: $(cat /tmp/out)"
    fi
}

init() {
    local home=$state/h$next
    say "do init h$next"
    run init "$home" --model "$test/models/digits_cnn.onnx"
    say "ok init h$next"
    next=$((next + 1))
}
# A home with feedback, made before the first start.
taught() {
    say "do init t$next"
    rm -rf "$state/old"
    cp -a "$test/taught" "$state/old"
    sync
    mv "$state/old" "$state/t$next"
    sync
    say "ok init t$next"
    next=$((next + 1))
}
predict() { # HOME [SYNC]; sets `id` and `picture`
    picture=$(any)
    say "do predict ${1##*/}"
    run predict "$1" "$picture" --sync "${2:-grouped}"
    id=$(field id)
    say "ok predict ${1##*/} $id ${2:-grouped}"
}
feedback() { # HOME: of the answer before
    local label
    label=$(basename "$(dirname "$picture")")
    say "do feedback ${1##*/} $id $label"
    run feedback "$1" "$id" --label "$label" --new-class
    say "ok feedback ${1##*/} $id $label"
}
teach() { # HOME
    predict "$1"
    feedback "$1"
}
forget() { # HOME ID
    say "do forget ${1##*/} $2"
    run forget "$1" "$2" --no-train
    say "ok forget ${1##*/} $2 $(field generation)"
}
# Training removes what was not finished.
clean() { # HOME
    local left
    left=$(unfinished "$1")
    [ -z "$left" ] || bad "after a training there is still $left"
}
train() { # HOME
    say "do train ${1##*/}"
    run train "$1" --checkpoint-seconds 0.05
    say "ok train ${1##*/} $(field generation) $(grep -o '"reason":"[^"]*"' <<<"$out" | tail -n 1)"
    clean "$1"
}
adapt() { # HOME
    say "do train ${1##*/}"
    as_user acclimate --quiet adapt "$1" --after 1 --json --checkpoint-seconds 0.05 --max-cpu-pressure 100 \
        --max-memory-pressure 100 --max-temperature 200 >/tmp/events 2>&1 || bad "adapt: $(tail -n 3 /tmp/events)"
    ! grep '"failed"' /tmp/events >/tmp/err || bad "adapt: $(cat /tmp/err)"
    run status "$1"
    say "ok train ${1##*/} $(field generation)"
    clean "$1"
}
rollback() { # HOME: to the base model, where that does not serve
    run status "$1"
    [ "$(field generation)" != 0 ] || return
    say "do rollback ${1##*/}"
    run rollback "$1" --to 0
    say "ok rollback ${1##*/} $(field generation)"
}
upgrade() { # VERSION
    say "do upgrade $1"
    dpkg --install --force-downgrade "$test/$1.deb" >/tmp/out 2>&1 || bad "dpkg --install: $(tail -n 3 /tmp/out)"
    say "ok upgrade $1"
}
archive=/opt/acclimate
install() { # VERSION [--uninstall]
    say "do install $1 ${2:-}"
    [ -z "${2:-}" ] || { touch "$test/uninstalling"; sync; }
    "$test/$1/install.sh" --prefix $archive ${2:-} >/tmp/out 2>&1 ||
        bad "install.sh ${2:-}: $(tail -n 3 /tmp/out)"
    [ -n "${2:-}" ] || { rm -f "$test/uninstalling"; sync; }
    say "ok install $1 ${2:-}"
}
# Where install.sh puts what.
archive_files() {
    local page
    echo bin/acclimate bin/acclimate
    echo lib/adapt-homes lib/acclimate/adapt-homes
    for page in "$test"/old/share/man/man1/*; do echo "${page#"$test"/old/} ${page#"$test"/old/}"; done
    echo share/completions/acclimate.bash share/bash-completion/completions/acclimate
    echo share/completions/_acclimate share/zsh/site-functions/_acclimate
    echo share/completions/acclimate.fish share/fish/vendor_completions.d/acclimate.fish
}
# Is each installed file whole, and of one of these versions? None is missing, but where one was being removed, or where
# the first installation has not written its list yet.
archive_is() { # VERSION...
    local from to version found
    archive_files | while read -r from to; do
        if [ ! -e "$archive/$to" ]; then
            [ -e "$test/uninstalling" ] || [ ! -e $archive/lib/acclimate/installed ] ||
                bad "install.sh: $archive/$to is missing"
            continue
        fi
        found=
        for version in "$@"; do ! cmp -s "$archive/$to" "$test/$version/$from" || found=1; done
        [ -n "$found" ] || bad "install.sh: $archive/$to is not that of: $*"
    done
}
# The home to use: the newest, or a new one when that has got large.
home() {
    local newest kind=t
    [ "$phase" != use ] || kind=h
    newest=$(ls -d "$state/$kind"* 2>/dev/null | sort -V | tail -n 1)
    if [ -z "$newest" ] || [ "$(du -s "$newest/profiles" 2>/dev/null | cut -f 1)0" -gt 10000 ]; then
        if [ $kind = h ]; then init; else taught; fi
        newest=$state/$kind$((next - 1))
    fi
    home=$newest
}

say "clock $(date -u +%F)"
program "program" /usr/bin/acclimate
[ ! -e $archive/bin/acclimate ] || program "archive" $archive/bin/acclimate
if [ -n "$(dpkg --audit)" ]; then
    say "found package half installed"
    dpkg --configure -a >/tmp/out 2>&1 || say "dpkg --configure -a: $(tail -n 3 /tmp/out)"
    upgrade new
    [ -z "$(dpkg --audit)" ] || bad "dpkg --audit: $(dpkg --audit)"
fi
if [ "$phase" = install ] || [ "$phase" = end ]; then
    # What the cut has left, before anything is completed.
    archive_is old new
    install old
    program "archive" $archive/bin/acclimate
    archive_is old
    left=$(find $archive -name '*.new' -o -name '*.part')
    [ -z "$left" ] || bad "install.sh left $left"
fi
rm -rf "$state/old"
for folder in "$state"/[ht]*; do
    [ ! -d "$folder" ] || look "$folder"
done
if [ "$phase" = init ]; then
    # First out of sight, as a whole: a home that is half removed is no fault.
    say "removing all"
    mkdir -p "$state/old"
    for folder in "$state"/[ht]*; do [ ! -d "$folder" ] || mv "$folder" "$state/old/"; done
    sync
    say "removed all"
fi
say "ready"

turn=0
while [ "$phase" != end ]; do
    turn=$((turn + 1))
    case $phase in
        init) init ;;
        use)
            home
            predict "$home" always
            [ $((turn % 4)) = 0 ] || feedback "$home"
            predict "$home"
            predict "$home"
            [ $((turn % 2)) = 0 ] || feedback "$home"
            [ $((turn % 5)) != 0 ] || forget "$home" "$id"
            ;;
        train | adapt)
            home
            teach "$home"
            "$phase" "$home"
            predict "$home"
            [ $((turn % 2)) = 0 ] || rollback "$home"
            ;;
        upgrade)
            upgrade old
            upgrade new
            ;;
        install)
            install new
            install old
            [ $((turn % 3)) != 0 ] || install old --uninstall
            ;;
    esac
done
say "done"
sync
mount -o remount,ro /
say "over"
sleep 1
echo o >/proc/sysrq-trigger
sleep 10
