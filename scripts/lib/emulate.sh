# Lets the kernel start 64-bit ARM programs by qemu, children included. Sourced; uses `say` and `die`. `emulate` begins
# it where the kernel does not do so yet, and `end_emulation` ends what was begun. On an ARM machine there is nothing to
# do: qemu, registered there, would take the machine's own programs.
binfmt=/proc/sys/fs/binfmt_misc
registered=
mounted=

emulate() { # [ARCH]
    [ "${1:-arm64}" = arm64 ] || die "programs for $1 do not run on this machine, and are not emulated"
    [ "$(uname -m)" != aarch64 ] || return 0
    if ! command -v qemu-aarch64-static >/dev/null; then
        { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } ||
            die "qemu-aarch64-static is missing" "sudo apt-get install qemu-user-static"
        say "installing qemu-user-static"
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends qemu-user-static >&2 ||
            die "could not install qemu-user-static" "apt-get update"
    fi
    if [ ! -e "$binfmt/register" ]; then
        mount -t binfmt_misc binfmt_misc "$binfmt" ||
            die "binfmt_misc cannot be mounted" "as root, on a kernel with CONFIG_BINFMT_MISC"
        mounted=1
    fi
    ! grep -qsl '^interpreter .*qemu-aarch64' "$binfmt"/* || return 0
    # The ELF header of a 64-bit ARM program, as in qemu's own table. F: qemu is opened now, so no root needs a copy.
    local zero='\x00\x00\x00\x00\x00\x00\x00\x00' ones='\xff\xff\xff\xff\xff\xff\xff' magic mask
    magic="\\x7fELF\\x02\\x01\\x01\\x00$zero\\x02\\x00\\xb7\\x00"
    mask="$ones\\x00\\xff$ones\\xfe\\xff\\xff\\xff"
    printf '%s' ":acclimate-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >"$binfmt/register" ||
        die "qemu could not be registered in $binfmt" "as root, and in a container only a privileged one"
    registered=1
}

end_emulation() {
    [ -z "$registered" ] || echo -1 >"$binfmt/acclimate-aarch64"
    [ -z "$mounted" ] || umount "$binfmt"
    registered=
    mounted=
}
