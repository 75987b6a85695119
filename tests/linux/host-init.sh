#!/bin/sh
# The first process of the emulated host: brings up what the scenarios need, runs them, and powers off.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
ip link set lo up
for module in kvm-amd virtio_pci virtio_blk 9pnet_virtio 9p tun bridge veth; do
    modprobe "$module" || echo "FAILED  module $module"
done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072 host /host || echo "FAILED  the share"
script=$(sed -n 's/.*script=\([^ ]*\).*/\1/p' /proc/cmdline)
sh "/host/$script" || echo "FAILED  $script ended with $?"
poweroff -f
