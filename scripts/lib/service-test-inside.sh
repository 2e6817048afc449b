# Run by service-test.sh in a system that it has booted.
set -u
failed=0
check() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then echo "ok    $what"; else echo "WRONG $what"; failed=$((failed + 1)); fi
}
state=/var/lib/acclimate
as_user() { runuser -u acclimate -- "$@"; }
feedback() {
    as_user acclimate -q predict "$state/door" /test/models/digits/feedback/8/1.png >/dev/null &&
        as_user acclimate -q feedback "$state/door" last --label 8 >/dev/null
}
generation() {
    [ "$(as_user acclimate status "$state/door" --json | sed -n 's/.*"generation":\([0-9]*\).*/\1/p')" = "$1" ]
}
property() { [ "$(systemctl show -P "$2" "$1")" = "$3" ]; }
log() { journalctl --no-pager --output cat --unit "$1" 2>/dev/null | tail -n 30; }

echo "$(systemctl --version | head -n 1), $(uname -r), $(. /etc/os-release; echo "$PRETTY_NAME")"
check "installs" dpkg --install /test/acclimate.deb
check "the timer waits" systemctl --quiet is-active acclimate-train.timer
check "the timer starts with the system" systemctl --quiet is-enabled acclimate-train.timer
systemctl list-timers --no-pager acclimate-train.timer | sed -n 2p
check "the watching service is off" property acclimate-adapt.service UnitFileState disabled
check "the units verify" \
    systemd-analyze verify --man=no acclimate-train.service acclimate-train.timer acclimate-adapt.service

# However busy this machine is.
echo 'ADAPT_OPTIONS=--max-cpu-pressure 100 --max-memory-pressure 100 --max-temperature 200 --after 1 --every 1' \
    >/etc/default/acclimate

check "trains nothing where no home is" systemctl start acclimate-train.service
check "a home, and a first training" as_user sh /test/walk.sh /test/models "$state/door"
check "new feedback" feedback
# No call may be refused quietly.
for unit in acclimate-train acclimate-adapt; do
    mkdir -p "/etc/systemd/system/$unit.service.d"
    printf '[Service]\nSystemCallErrorNumber=\nSystemCallLog=~@system-service\n' \
        >"/etc/systemd/system/$unit.service.d/strict.conf"
done
systemctl daemon-reload
check "trains by the service" systemctl start acclimate-train.service || log acclimate-train
check "a new generation is active" generation 2
check "the service was not killed" property acclimate-train.service Result success
log acclimate-train
check "files are the user's alone" test -z "$(find "$state/door" ! -user acclimate -o -perm /077 | head -n 3)"
check "without new feedback nothing is trained" systemctl start acclimate-train.service
check "the generation is the same" generation 2

# A command in the service's sandbox.
probe() { # COMMAND
    echo "$1" >/test/probe.sh
    sed -e '/^Type=/d' -e 's|^ExecStart=.*|Type=oneshot\nExecStart=/bin/sh /test/probe.sh|' \
        /lib/systemd/system/acclimate-train.service >/run/systemd/system/probe.service
    systemctl daemon-reload
    systemctl reset-failed probe.service 2>/dev/null
    systemctl start probe.service 2>/dev/null
}
refused() { ! probe "$1"; }
check "it can write its folder" probe "touch $state/probe && rm $state/probe"
check "it cannot write elsewhere" refused "touch /var/lib/probe"
check "it cannot read the password hashes" refused "cat /etc/shadow"
check "it has no network but its own loopback" probe "! tail -n +3 /proc/net/dev | grep -v ' lo:'"
check "it sees no other process" probe "! test -e /proc/1/cmdline"

# In the middle of a training.
check "new feedback" feedback
systemctl start --no-block acclimate-train.service
# It notes what it trains before the first step.
attempt=$state/door/profiles/default/attempt.toml
for _ in $(seq 1000); do [ ! -e "$attempt" ] || break; sleep 0.01; done
check "a training runs" property acclimate-train.service ActiveState activating
started=$(date +%s%N)
systemctl stop acclimate-train.service
took=$((($(date +%s%N) - started) / 1000000))
check "stops in $took ms" test "$took" -lt 2000
check "the training was not over" generation 2
check "and that is no failure" property acclimate-train.service Result success
check "a checkpoint is kept" test -n "$(ls "$state/door/profiles/default/checkpoint" 2>/dev/null)"
check "the home is sound" as_user sh -c "acclimate -q verify '$state/door' >/dev/null"
check "a later start goes on" systemctl start acclimate-train.service
check "and ends" generation 3

# The service that watches.
check "the watching service starts" systemctl start acclimate-adapt.service
check "new feedback" feedback
for _ in $(seq 100); do ! generation 4 2>/dev/null || break; sleep 0.2; done
check "it trains" generation 4
started=$(date +%s%N)
systemctl stop acclimate-adapt.service
took=$((($(date +%s%N) - started) / 1000000))
check "stops in $took ms" test "$took" -lt 2000
check "and that is no failure" property acclimate-adapt.service Result success
log acclimate-adapt

check "removal" dpkg --remove acclimate
check "the timer is gone" test "$(systemctl is-active acclimate-train.timer)" != active
check "the home is kept" test -f "$state/door/acclimate.toml"
check "purge" dpkg --purge acclimate
check "the homes are gone" test ! -e "$state"
check "and the options" test ! -e /etc/default/acclimate
check "no link of a unit is left" test -z "$(find /etc/systemd/system -name 'acclimate*' ! -name '*.d' ! -path '*.d/*')"
exit "$failed"
