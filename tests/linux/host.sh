#!/usr/bin/env bash
# A complete x86 host with the stock kvm_amd of Debian's kernel, emulated in software: where unmodified Linux guests are tested on machines
# whose own KVM, if they have one, cannot run them. And a guest to be tested there: Debian's cloud kernel as packaged, and around it
# a small system of busybox.
#
# usage: tests/linux/host.sh build DIR PEER             into DIR, unless it is there: the host, the guest's kernel, RAM disk and root
#        tests/linux/host.sh run DIR SHARE SCRIPT CPUS  boots it; SHARE is its /host; runs /host/SCRIPT there; powers off
#
# PEER is a static program that becomes the guest's service. Needs root (device nodes in the guest's image), apt, qemu-system-x86_64,
# busybox-static, cpio, depmod, ip, lz4, mkfs.ext4, e2fsck and rasdaemon.
set -euo pipefail
here=$(realpath "$(dirname "$0")")

host_modules="kvm-amd virtio_pci virtio_blk virtio_net 9pnet_virtio 9p ext4 tun bridge veth crc32c_generic"
guest_modules="virtio_mmio virtio_blk virtio_net virtio-rng button evdev pvpanic-mmio wdat_wdt"

# fetch PACKAGE DIR: unpacked there; nothing is installed.
fetch() { (cd "$2" && apt-get -qq -o APT::Sandbox::User=root download "$1" && dpkg -x "$1"_*.deb . && rm "$1"_*.deb); }

# unpack METAPACKAGE DIR: the kernel package it depends on, in a directory of this name; prints the kernel's version.
unpack() {
    local image
    image=$(apt-cache depends "$1" | awk '/Depends: linux-image-/{print $2; exit}')
    [ -n "$image" ] || { echo "host.sh: apt knows no $1: run apt-get update" >&2 && return 1; }
    mkdir "$2/$1"
    fetch "$image" "$2/$1"
    depmod -b "$2/$1" "${image#linux-image-}"
    echo "${image#linux-image-}"
}

# system ROOT: a file system with busybox and nothing else.
system() {
    local applet
    mkdir -p "$1"/{bin,dev,proc,sys,tmp,run,mnt,host,root,etc/acpi/PWRF,etc/kemari,var/lib/kemari}
    cp /bin/busybox "$1/bin/"
    for applet in $(/bin/busybox --list | grep -vx busybox); do ln -s busybox "$1/bin/$applet"; done
}

# program ROOT PROGRAM...: programs of this machine, with the libraries they need, in /sbin: busybox's shell prefers its own to
# those in the path.
program() {
    local root=$1 program library
    shift
    for program in "$@"; do
        program=$(command -v "$program")
        install -D "$program" "$root/sbin/$(basename "$program")"
        ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
            install -D "$library" "$root$library"
        done
    done
}

# modules ROOT KERNEL_TREE VERSION MODULE...: these modules and what they depend on.
modules() {
    local root=$1 tree=$2 version=$3 module
    shift 3
    for module in "$@"; do
        modprobe -d "$tree" -S "$version" --show-depends "$module"
    done | awk '$1 == "insmod" {print $2}' | sort -u | while read -r module; do
        install -D "$module" "$root/${module#"$tree/"}"
    done
    cp "$tree/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$root/lib/modules/$version/" 2>/dev/null || true
    depmod -b "$root" "$version"
}

archive() { (cd "$1" && find . | cpio -o -H newc --quiet | gzip -1) >"$2"; }

# elf BZIMAGE ELF: the kernel inside, which Debian packs by lz4; what follows the packed stream is not lz4's to mind.
elf() {
    local at
    at=$(LC_ALL=C grep -obUaP '\x02\x21\x4c\x18' "$1" | head -1 | cut -d: -f1)
    tail -c "+$((at + 1))" "$1" | lz4 -dcq >"$2" 2>/dev/null || true
    [ "$(head -c 4 "$2" | tail -c 3)" = ELF ]
}

build() {
    local dir=$1 peer=$2 host guest scratch
    if [ -e "$dir/complete" ] && [ "$(cat "$dir/complete")" = "$(recipe "$peer")" ]; then
        image "$dir" "$peer"
        return
    fi
    rm -rf "$dir" && mkdir -p "$dir"
    scratch=$(mktemp -d "$dir/scratch-XXXXXX")
    host=$(unpack linux-image-amd64 "$scratch")
    guest=$(unpack linux-image-cloud-amd64 "$scratch")
    system "$scratch/host"
    # shellcheck disable=SC2086 # a list of words
    modules "$scratch/host" "$scratch/linux-image-amd64" "$host" $host_modules
    fetch acpica-tools "$scratch"
    program "$scratch/host" ip e2fsck rasdaemon "$scratch/usr/bin/iasl"
    install "$here/host-init.sh" "$scratch/host/init"
    archive "$scratch/host" "$dir/host.cpio.gz"
    cp "$scratch"/linux-image-amd64/boot/vmlinuz-* "$dir/host.bzImage"
    system "$scratch/guest"
    # shellcheck disable=SC2086 # a list of words
    modules "$scratch/guest" "$scratch/linux-image-cloud-amd64" "$guest" $guest_modules
    install "$here/guest-init.sh" "$scratch/guest/init"
    install "$peer" "$scratch/guest/bin/peer"
    archive "$scratch/guest" "$dir/guest.cpio.gz"
    cp "$scratch"/linux-image-cloud-amd64/boot/vmlinuz-* "$dir/guest.bzImage"
    elf "$dir/guest.bzImage" "$dir/guest.elf"
    rm -rf "$scratch"
    recipe "$peer" >"$dir/complete"
    image "$dir" "$peer"
    echo "host: Linux $host; guest: Linux $guest; in $dir"
}

# recipe PEER: what a cached build was made from.
recipe() { cat "$here"/{host,host-init,guest-init}.sh "$1" | sha256sum; }

# image DIR PEER: the guest's root, with the program under test in it, and a second disk.
image() {
    local root
    root=$(mktemp -d "$1/root-XXXXXX")
    system "$root"
    install "$here/guest-init.sh" "$root/bin/init"
    install "$2" "$root/bin/peer"
    program "$root" ip
    install "$here/../../replicator/in-the-guest/kemari-failover" "$root/bin/"
    rm -f "$1/root.ext4"
    truncate -s 96M "$1/root.ext4"
    mkfs.ext4 -q -d "$root" "$1/root.ext4"
    truncate -s 16M "$1/spare.img"
    rm -rf "$root"
}

# The fewer vector instructions a program finds, the fewer of them are emulated: encryption and checksums are faster by the plain ones.
# `tsc=reliable`: all emulated CPUs have the TSC of the real one, but nothing tells the kernel that it is invariant.
# The second serial port is connected to the monitor of the machine itself.
run() {
    local dir=$1 share=$2 script=$3 cpus=$4
    exec qemu-system-x86_64 -accel tcg,thread=multi -cpu EPYC,+svm,+npt,-ssse3,-sse4.1,-sse4.2,-sse4a,-avx,-avx2,-aes,-pclmulqdq -smp "$cpus" -m 2048 -M q35 \
        -nodefaults -nographic -no-reboot -serial stdio \
        -chardev "socket,id=monitor,path=$share/monitor,server=on,wait=off" -mon chardev=monitor \
        -chardev "socket,id=line,path=$share/monitor" -serial chardev:line \
        -kernel "$dir/host.bzImage" -initrd "$dir/host.cpio.gz" -append "console=ttyS0 panic=-1 quiet tsc=reliable script=$script" \
        -drive "file=$dir/root.ext4,if=virtio,format=raw,cache=unsafe" \
        -drive "file=$dir/spare.img,if=virtio,format=raw,cache=unsafe" \
        -virtfs "local,path=$share,mount_tag=host,security_model=none,id=host"
}

case ${1:-} in
build) build "$2" "$3" ;;
run) run "$2" "$3" "$4" "$5" ;;
*)
    sed -n '2,12p' "$0"
    exit 2
    ;;
esac
