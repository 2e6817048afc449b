# Does a static archive do what it promises? Sourced by package-test.sh, whose `work`, `here`, `suite`, `failed`, `say`,
# `die`, `inside`, `as_user`, `check`, `files`, `owner`, `gone`, `new_feedback` and `nightly` it uses.

# Somebody who may change nothing but a folder of their own.
as_person() {
    chroot --userspec=1000:1000 "$here" /usr/bin/env -i PATH="${path:-/usr/local/bin:/usr/bin:/bin}" \
        HOME=/tmp/person LC_ALL=C.UTF-8 "$@"
}
refuses() { # CODE WORDS COMMAND...
    local code=$1 words=$2 got=0
    shift 2
    "$@" >"$work/refusal" 2>&1 || got=$?
    [ "$got" = "$code" ] && grep -qF -- "$words" "$work/refusal" && return
    echo "      exit code $got, said: $(head -n 3 "$work/refusal")"
    return 1
}
says() { # WORDS COMMAND...
    local words=$1
    shift
    "$@" >"$work/said" 2>&1 && grep -qF -- "$words" "$work/said" && return
    echo "      said: $(tail -n 3 "$work/said")"
    return 1
}

# The program in a folder where nothing else is: no C library, no shell, no /proc, of devices only /dev/null. The
# container image itself holds no more.
nothing_else() { # PROGRAM
    local empty=$work/empty
    mkdir -p "$empty/bin" "$empty/dev" "$work/path"
    mknod -m 666 "$empty/dev/null" c 1 3
    cp "$1" "$empty/bin/acclimate"
    cp -r "$root/models" "$empty/"
    install -d -o 10001 -g 10001 "$empty/tmp" "$empty/homes"
    cat >"$work/path/acclimate" <<END
#!/usr/bin/env bash
exec env -i /usr/sbin/chroot --userspec=10001:10001 "$empty" /bin/acclimate "\${@//"$empty"/}"
END
    chmod +x "$work/path/acclimate"
    PATH=$work/path:$PATH sh "$root/scripts/lib/walk.sh" "$empty/models" "$empty/homes/home" &&
        PATH=$work/path:$PATH acclimate status /homes/home --json >/dev/null
    local status=$?
    rm -rf "$empty"
    return "$status"
}

# Leaves what a version before this one had and this one has not.
older_version() {
    cp -r "$unpacked" "$here/tmp/older"
    echo old >"$here/tmp/older/share/man/man1/acclimate-old.1"
    inside /tmp/older/install.sh
}

try_archive() { # ARCHIVE
    local archive=$1 arch name unpacked
    name=$(basename "$archive" .tar.gz)
    case $name in
        *-aarch64-static) arch=arm64 ;;
        *-x86_64-static) arch=amd64 ;;
        *) die "$archive: no machine in its name" "scripts/package.sh static makes it" 2 ;;
    esac
    failed=0
    say "$(basename "$archive") on a clean $suite, $arch"
    begin "$arch"
    tar --extract --file "$archive" --directory "$here/tmp"
    unpacked=$here/tmp/$name
    install -d -o 1000 -g 1000 "$here/tmp/person"

    check "alone, as in the container image" nothing_else "$unpacked/bin/acclimate"
    check "installs for one person, without root" as_person "/tmp/$name/install.sh" --prefix /tmp/person/.local
    path=/tmp/person/.local/bin:/usr/bin:/bin
    check "starts there" as_person acclimate --version
    check "removal for that person" as_person "/tmp/$name/install.sh" --uninstall --prefix /tmp/person/.local
    check "leaves nothing there" test -z "$(ls -A "$here/tmp/person")"
    path=
    check "without root it refuses the system" refuses 1 "hint: sudo" as_person "/tmp/$name/install.sh"
    check "without root it refuses the service" refuses 1 "--service needs root" \
        as_person "/tmp/$name/install.sh" --service
    cp -r "$unpacked" "$here/tmp/other"
    printf '\177ELF' >"$here/tmp/other/bin/acclimate"
    check "another processor's archive is refused" refuses 1 "does not run here" inside /tmp/other/install.sh
    check "refusals leave nothing" diff "$work/before" <(files)

    check "an older version installs" older_version
    check "an upgrade" inside "/tmp/$name/install.sh"
    check "removes what only the older version had" test ! -e "$here/usr/local/share/man/man1/acclimate-old.1"
    check "the program starts" inside acclimate --version
    check "manual pages" test -s "$here/usr/local/share/man/man1/acclimate-train.1"
    check "completions" test -s "$here/usr/local/share/bash-completion/completions/acclimate"
    check "no service unasked" test ! -e "$here/etc/systemd/system/acclimate-train.timer"
    check "doctor" says '"checks"' as_person acclimate doctor --json
    check "the quick start, as a person" as_person sh /tmp/walk.sh /tmp/models /tmp/person/door

    check "the service, where systemd is missing" says "systemd does not run here" \
        inside "/tmp/$name/install.sh" --service
    check "the user's folder" owner /var/lib/acclimate acclimate:acclimate:750
    check "the units" grep -q "/usr/local/lib/acclimate/adapt-homes" \
        "$here/etc/systemd/system/acclimate-train.service"
    check "the quick start, as the service's user" as_user sh /tmp/walk.sh /tmp/models /var/lib/acclimate/door
    check "new feedback" new_feedback
    # What the installer names for cron, with cron's own PATH.
    check "the nightly training" nightly env PATH=/usr/bin:/bin ACCLIMATE=/usr/local/bin/acclimate \
        /usr/local/lib/acclimate/adapt-homes /var/lib/acclimate
    check "a second installation" inside "/tmp/$name/install.sh" --service
    check "keeps the home" as_user acclimate -q verify /var/lib/acclimate/door

    check "removal" inside "/tmp/$name/install.sh" --uninstall
    check "removes the program" test ! -e "$here/usr/local/bin/acclimate"
    check "keeps the homes" test -f "$here/var/lib/acclimate/door/acclimate.toml"
    check "--purge" inside "/tmp/$name/install.sh" --uninstall --purge
    check "deletes the homes" test ! -e "$here/var/lib/acclimate"
    check "leaves nothing" diff "$work/before" <(files)
    finish
}
