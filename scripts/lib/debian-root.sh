# A minimal Debian in a folder, made by debootstrap once and kept as an archive. Sourced; uses `say` and `die`.
roots=${ACCLIMATE_CACHE:-${HOME:?HOME is not set: set ACCLIMATE_CACHE}/.cache/acclimate}/roots

need() { # COMMAND PACKAGE...
    command -v "$1" >/dev/null && return 0
    shift
    say "installing $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2 ||
        die "could not install $*" "apt-get update"
}

make_root() { # SUITE ARCH PACKAGES DIR
    local archive log
    archive=$roots/$1-$2-$(tr , - <<<"$3").tar
    if [ -f "$archive" ]; then
        mkdir -p "$4" && tar --extract --file "$archive" --directory "$4"
        return
    fi
    need debootstrap debootstrap
    say "making a minimal $1 for $2 with $3"
    mkdir -p "$roots"
    log=$(mktemp)
    { debootstrap --foreign --arch="$2" --variant=minbase --include="$3" "$1" "$4" http://deb.debian.org/debian &&
        chroot "$4" /debootstrap/debootstrap --second-stage; } >"$log" 2>&1 ||
        { tail -n 20 "$log" >&2; rm "$log"; die "debootstrap failed"; }
    rm -rf "$log" "$4"/var/cache/apt/archives/*.deb
    tar --create --file "$archive.new" --directory "$4" . && mv "$archive.new" "$archive"
}
