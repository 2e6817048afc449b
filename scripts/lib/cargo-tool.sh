# Cargo's tools that scripts use are installed once, into the cache, at the version that is asked for. Sourced.
tool() { # NAME VERSION [ARG...]
    local name=$1 version=$2
    local tools=${ACCLIMATE_CACHE:-${HOME:?HOME is not set: set ACCLIMATE_CACHE}/.cache/acclimate}/tools
    shift 2
    [ -e "$tools/.$name-$version" ] || {
        CARGO_TARGET_DIR=$tools/target CARGO_PROFILE_RELEASE_OPT_LEVEL=1 cargo install --quiet --locked \
            --root "$tools" "$@" --version "$version" "$name" && touch "$tools/.$name-$version" &&
            rm -rf "$tools/target"
    } || return 1
    PATH=$tools/bin:$PATH
}
