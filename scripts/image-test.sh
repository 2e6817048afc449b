#!/usr/bin/env bash
# Does the container image work? Builds it with buildah from the context that package.sh made, without a registry, and
# runs the program in it as the image's own user, with a volume: init, predict, feedback, train, and the health check as
# the image's settings have it, of a volume without a home, with one, and with a damaged one.
#
#   scripts/image-test.sh [CONTEXT] [--arch amd64|arm64]
#
#   CONTEXT    default target/packages/oci, which scripts/package.sh static makes
#   --arch     default that of this machine; what it cannot run runs under qemu-user-static, by binfmt_misc
#
# Needs root (chroot isolation, no namespaces). Exit code 1: something is not as it should be, and is named.
set -euo pipefail

say() { echo "image-test: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
context=$root/target/packages/oci
host=$(dpkg --print-architecture)
arch=$host
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --arch)
            case ${2:-} in amd64 | arm64) arch=$2 ;; *) die "--arch is amd64 or arm64" "see --help" 2 ;; esac
            shift
            ;;
        -*) die "unknown argument '$1'" "see --help" 2 ;;
        *) context=$1 ;;
    esac
    shift
done
[ -x "$context/$arch/acclimate" ] || die "there is no program for $arch in $context" "scripts/package.sh static" 2
[ "$(id -u)" = 0 ] || die "this needs root" "sudo $0 $context"
source "$root/scripts/lib/debian-root.sh"
source "$root/scripts/lib/emulate.sh"
need buildah buildah
need jq jq
work=$(mktemp -d)
container=
tool() { STORAGE_DRIVER=vfs buildah --root "$work/storage" --runroot "$work/run" "$@"; }
clean() {
    [ -z "$container" ] || tool rm "$container" >/dev/null || true
    end_emulation
    rm -rf --one-file-system "$work"
}
trap clean EXIT
failed=0
context=$(realpath "$context")
cd "$root/models"
: >"$work/errors"
check() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then echo "ok    $what"; else echo "WRONG $what"; failed=$((failed + 1)); tail -n 3 "$work/errors"; fi
}
# The volume is the one that buildah makes of the image's own folder, and keeps from one run to the next.
inside() { tool run --isolation chroot --volume "$root/models:/in:ro" "$container" -- "$@" 2>"$work/errors"; }
volume() { dirname "$(dirname "$(find "$work/storage" -path '*/home/acclimate.toml')")"; }
config() { jq -c ".Docker.config.$1" "$work/image.json"; }
is() { [ "$1" = "$2" ] || { echo "      $1, not $2"; return 1; }; }
home=/var/lib/acclimate/home
acclimate() { inside /usr/bin/acclimate --quiet "$@"; }
healthy() { inside "${health[@]}" >/dev/null; }
doctor() { acclimate doctor $home --json | jq -e ".checks | length > 10" >/dev/null; }
sick() { ! healthy; }
learn() {
    local pictures ids n
    pictures=(digits/feedback/*/*.png)
    mapfile -t ids < <(acclimate predict $home "${pictures[@]/#//in/}" --json | jq -r '.[].id')
    [ ${#ids[@]} = ${#pictures[@]} ] || return 1
    for n in "${!ids[@]}"; do
        acclimate feedback $home "${ids[n]}" --label "$(basename "$(dirname "${pictures[n]}")")" --new-class \
            >/dev/null || return 1
    done
    acclimate train $home --json | jq -e '.promoted' >/dev/null
}
alone() { # The files of the volume are the user's and closed to others.
    [ -z "$(find "$(volume)/home" \( ! -uid 10001 -o -perm /077 \) -print -quit)" ]
}

[ "$arch" = "$host" ] || emulate "$arch"
tool build --isolation chroot --format docker --platform "linux/$arch" --tag acclimate "$context" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; die "the image cannot be built"; }
tool inspect --type image acclimate >"$work/image.json"
container=$(tool from localhost/acclimate)
mapfile -t health < <(jq -r '.Docker.config.Healthcheck.Test[1:][]' "$work/image.json")

say "$(tool --version)"
check "its user" is "$(config User)" '"10001:10001"'
check "its volume" is "$(config Volumes)" '{"/var/lib/acclimate":{}}'
check "its health check" is "$(config 'Healthcheck.Test[0]')" '"CMD"'
check "the program and two licences, no system" is "$(find "$(tool mount "$container")" -type f | wc -l)" 3
check "the program starts" inside /usr/bin/acclimate --version
check "no home yet: the health check fails" sick
check "init" acclimate init $home --model /in/digits_cnn.onnx
check "the health check" healthy
check "36 pictures labelled and a generation promoted" learn
check "the health check" healthy
check "files are the user's alone" alone
check "doctor" doctor
mv "$(volume)/home/base.onnx" "$work/model"
check "without its model the health check fails" sick
[ "$failed" = 0 ] || die "$failed checks failed; the last errors: $(cat "$work/errors")"
say "all is as it should be"
