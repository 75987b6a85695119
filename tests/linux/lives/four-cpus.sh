#!/bin/sh
# shellcheck disable=SC2016,SC2154,SC2317 # the guest's shell expands; the rooms' variables; it is sourced
echo "== the ELF inside, 4 vCPUs"
configure "" 's/vcpus = 2/vcpus = 4/
    s/^nic = \[\(.*\)\]/nic = [\1, { tap = "tap-more", mac = "52:54:00:12:34:57" }]/
    s/^disk = \[\(.*\)\]/disk = [\1, { path = "\/dev\/vdb", serial = "spare" }]/'
cp /host/guest.elf /srv/debian/vmlinuz
boot || return
says "4 CPUs" '^4$' in_guest nproc
says "2 disks" '^spare$' in_guest 'cat /sys/block/vdb/serial'
says "randomness of the host" '^virtio_rng.0 32$' in_guest \
    'echo $(cat /sys/class/misc/hw_random/rng_current) $(head -c 32 /dev/hwrng | wc -c)'
acpi_is_sound
segments_travel_whole alpha
protect beta alpha || return
kernel_log
talk
work 'for i in 1 2 3 4; do (for j in 1 2 3 4 5 6; do md5sum /bin/busybox; done) & done >/tmp/sums; wait; sort -u /tmp/sums | wc -l | grep -x 1 && dd if=/bin/busybox of=/dev/vdb conv=fsync && cmp -n 1000000 /bin/busybox /dev/vdb && echo right'
sleep 1
watch_clocks
take_over alpha beta 4 || return
segments_travel_whole beta
protect alpha beta || return
worked "what ran on all CPUs at the kill is right"
in_node beta /sbin/ip address add 10.9.1.1/24 dev tap-more
says "2 NICs" ' 0% packet loss' in_node beta ping -c 2 10.9.1.2
hush "one session and one exchange"
clocks_are_right 4 4
kernel_is_content
shut_down beta
check "its file system is clean" /sbin/e2fsck -fn /dev/vda
cp /host/guest.bzImage /srv/debian/vmlinuz
