#!/usr/bin/env bash
# Cuts the power of a virtual machine in which a .deb is installed and used, again and again, and looks after each cut
# whether the file system and the homes are sound and whether all is there that the program had acknowledged. The cuts
# fall, by turns, into making homes, answers and feedback and forgetting, training and rolling back, `adapt`, an upgrade
# of the package, and install.sh of the static archive; some fall while the machine recovers from the cut before. The
# clock jumps by years either way from start to start. See docs/store.md.
#
#   scripts/power-cut.sh DEB [--cuts N] [--seed S] [--seconds T] [--phase P] [--no-flush]
#                        [--program PROGRAM] [--accel kvm|tcg] [--suite S]
#
#   DEB        for amd64; what is installed, and from what the archive is made
#   --cuts     how many (default 24)
#   --seed     of everything random but the moments themselves (default 1)
#   --seconds  longest work between a start and a cut (default 40; 4 with kvm)
#   --phase    only cuts into this: init, use, train, adapt, upgrade or install
#   --no-flush the program's flushes do nothing (by a library that cc makes): something has to be wrong then
#   --program  takes the place of the program in DEB
#   --accel    tcg, which computes every instruction and runs anywhere (the default), or kvm
#   --suite    Debian's release in the machine (default bullseye)
#
# Needs root, and installs qemu-system-x86, busybox-static, cpio, e2fsprogs, binutils, python3 and debootstrap where
# they are missing; with --no-flush also gcc, for cc. The kernel and the Debian are kept in
# ${ACCLIMATE_CACHE:-~/.cache/acclimate}. A cut takes about 30 seconds with tcg. Exit code 1: something is not as it
# should be, and is named; the disk before the last start is kept. With --no-flush exit code 1 says that nothing was
# found wrong, or that the machine does not work.
set -euo pipefail

say() { echo "power-cut: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suite=bullseye
cuts=24
seed=1
seconds=
phase=
no_flush=
program=
deb=
accel=tcg
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --cuts | --seed | --seconds | --phase | --program | --accel | --suite)
            [ -n "${2:-}" ] || die "$1 needs a value" "see --help" 2
            declare "${1#--}=$2"
            shift
            ;;
        --no-flush) no_flush=1 ;;
        -*) die "unknown argument '$1'" "see --help" 2 ;;
        *) deb=$1 ;;
    esac
    shift
done
[ -f "$deb" ] || die "no package given, or '$deb' is no file" "scripts/package.sh deb --arch amd64 makes it" 2
[ "$(dpkg-deb --field "$deb" Architecture)" = amd64 ] || die "$deb is not for amd64" "" 2
[ -z "$program" ] || [ -x "$program" ] || die "$program is no program" "" 2
[ "$(id -u)" = 0 ] || die "this needs root" "sudo $0 $deb"
case $accel in kvm) : "${seconds:=4}" ;; tcg) : "${seconds:=40}" ;; *) die "--accel is kvm or tcg" "" 2 ;; esac
source "$root/scripts/lib/debian-root.sh"
need qemu-system-x86_64 qemu-system-x86
need busybox busybox-static
need cpio cpio
need mkfs.ext4 e2fsprogs
need readelf binutils
need python3 python3
[ -z "$no_flush" ] || need cc gcc
! readelf -lW "$(command -v busybox)" | grep -q INTERP ||
    die "$(command -v busybox) needs a dynamic linker, which is not in an initramfs" "apt-get install busybox-static"
work=$(mktemp -d)
kept=
trap 'umount "$work/root/proc" 2>/dev/null || true; [ -n "$kept" ] || rm -rf --one-file-system "$work"' EXIT

# Debian's kernel for virtual machines, which has ext4, and an initramfs with the modules for the disk.
boot=${ACCLIMATE_CACHE:-$HOME/.cache/acclimate}/power-cut
kernel() {
    local package module unpacked=$work/kernel
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
    [ -n "$package" ] || die "no kernel linux-image-cloud-amd64 is known" "apt-get update"
    say "fetching $package"
    mkdir -p "$work/fetched" "$boot"
    (cd "$work/fetched" && apt-get -o APT::Sandbox::User=root download "$package" >&2) ||
        die "could not fetch $package" "apt-get update"
    dpkg-deb -x "$work"/fetched/*.deb "$unpacked"
    mkdir -p "$work/initramfs/modules"
    # In the order in which they need each other.
    for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
        find "$unpacked/lib/modules" -name "$module.ko" -exec cp {} "$work/initramfs/modules/" \;
        [ -f "$work/initramfs/modules/$module.ko" ] ||
            grep -q "/$module\.ko" "$unpacked"/lib/modules/*/modules.builtin ||
            die "$package has no $module.ko" "if its modules are compressed or have other names: kernel() in $0"
    done
    install -D -m 755 "$(command -v busybox)" "$work/initramfs/bin/busybox"
    mkdir -p "$work/initramfs"/{dev,proc,sys,disk}
    cat >"$work/initramfs/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
    [ ! -f "/modules/$module.ko" ] || insmod "/modules/$module.ko"
done
if ! mount -t ext4 -o errors=remount-ro /dev/vda /disk; then
    echo "bad the file system cannot be mounted" >/dev/ttyS1
    sleep 5
    poweroff -f
fi
for folder in dev proc sys; do mount --move "/$folder" "/disk/$folder"; done
exec switch_root /disk /bin/bash /test/inside.sh
INIT
    chmod 755 "$work/initramfs/init"
    (cd "$work/initramfs" && find . | cpio --quiet -o -H newc | gzip -1) >"$boot/initramfs.new"
    cp "$unpacked"/boot/vmlinuz-* "$boot/vmlinuz.new"
    # What is complete has its name; the kernel, which is asked for, comes last.
    mv "$boot/initramfs.new" "$boot/initramfs"
    mv "$boot/vmlinuz.new" "$boot/vmlinuz"
}
[ -f "$boot/vmlinuz" ] || kernel

# Two versions of the package, and of the archive.
both() { # ROOT
    local tree=$work/tree version to
    dpkg-deb -R "$deb" "$tree"
    [ -z "$program" ] || install -m 755 "$program" "$tree/usr/bin/acclimate"
    rm -f "$tree/DEBIAN/md5sums"
    mkdir -p "$1/test"
    for version in old new; do
        sed -i "s/^Version:.*/Version: 0.0-$version/" "$tree/DEBIAN/control"
        # Programs that differ: what is behind the end of one is not looked at.
        echo "$version" >>"$tree/usr/bin/acclimate"
        dpkg-deb -b --root-owner-group -Zgzip -z1 "$tree" "$1/test/$version.deb" >/dev/null
        to=$1/test/$version
        mkdir -p "$to/bin" "$to/share/man/man1" "$to/share/completions" "$to/lib/systemd"
        cp "$tree/usr/bin/acclimate" "$to/bin/"
        cp "$tree"/usr/share/man/man1/*.gz "$to/share/man/man1/" && gunzip "$to"/share/man/man1/*.gz
        cp "$tree/usr/share/bash-completion/completions/acclimate" "$to/share/completions/acclimate.bash"
        cp "$tree/usr/share/zsh/vendor-completions/_acclimate" \
            "$tree/usr/share/fish/vendor_completions.d/acclimate.fish" "$to/share/completions/"
        cp "$tree"/usr/lib/acclimate/* "$to/lib/"
        cp "$tree"/lib/systemd/system/acclimate-* "$to/lib/systemd/"
        # Every file of one version differs from that of the other.
        sed -i "\$a # $version" "$to"/share/completions/* "$to/lib/adapt-homes" "$to"/lib/systemd/*
        sed -i "\$a .\\\\\" $version" "$to"/share/man/man1/*
        cp "$root/packaging/tarball/install.sh" "$to/"
    done
}
here=$work/root
make_root "$suite" amd64 adduser "$here"
both "$here"
mkdir -p "$here/test/models"
cp -r "$root/models/digits" "$root/models/digits_cnn.onnx" "$here/test/models/"
cp "$root/scripts/lib/power-cut-inside.sh" "$here/test/inside.sh"
[ -z "$no_flush" ] || cc -x c -shared -fPIC -nostdlib -o "$here/test/no-flush.so" - <<'C'
int fsync(int file) { return 0; }
int fdatasync(int file) { return 0; }
int syncfs(int file) { return 0; }
int msync(void *at, unsigned long length, int flags) { return 0; }
C
cp "$root/scripts/lib/walk.sh" "$here/test/"
inside() {
    chroot "$here" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@" \
        >"$work/log" 2>&1 || { cat "$work/log" >&2; die "in the system that is to be cut off: $* failed"; }
}
inside dpkg --install /test/new.deb
mount -t proc proc "$here/proc"
inside runuser -u acclimate -- sh /test/walk.sh /test/models /var/lib/acclimate/taught
umount "$here/proc"
mv "$here/var/lib/acclimate/taught" "$here/test/"
rm -rf "$here"/var/log/*
mkfs.ext4 -q -d "$here" -L acclimate "$work/disk.img" 1500M >/dev/null
rm -rf --one-file-system "$here" "$work/tree"

say "$(qemu-system-x86_64 --version | head -n 1), $accel; $suite, $(basename "$deb"), seed $seed"
status=0
python3 "$root/scripts/lib/power_cut.py" --kernel "$boot/vmlinuz" --initramfs "$boot/initramfs" \
    --disk "$work/disk.img" --work "$work" --accel "$accel" --cuts "$cuts" --seed "$seed" --seconds "$seconds" \
    ${phase:+--phase "$phase"} || status=$?
# 3: a promise was broken. Any other failure is one of the machine, or of this test.
if [ -n "$no_flush" ] && [ "$status" = 3 ]; then
    say "without flushes something is wrong, as it has to be"
    exit 0
fi
if [ "$status" != 0 ]; then
    kept=1
    die "see $work: disk.img is the disk before the last start, run.img after it; words and kernel.log are what it said"
fi
[ -z "$no_flush" ] || die "without flushes nothing was found wrong" "more --cuts, or --phase use: few cuts may miss it"
e2fsck -fn "$work/disk.img" >"$work/e2fsck.log" 2>&1 || {
    kept=1
    cat "$work/e2fsck.log" >&2
    die "e2fsck finds fault in $work/disk.img"
}
say "all is as it should be"
