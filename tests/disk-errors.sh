#!/usr/bin/env bash
# Disks that fail requests of the guest, or do not finish them: real errors of loop devices over files that were cut short or found no
# space, and real waiting, for a file system that is frozen.
#
# usage: tests/disk-errors.sh REPLICATOR GUEST_ELF AGENT (as root, with /dev/kvm, losetup, mkfs.ext4 and fsfreeze)
set -euo pipefail

if [ -z "${KEMARI_IN_NAMESPACE:-}" ]; then
    KEMARI_IN_NAMESPACE=1 exec unshare --net --mount -- "$0" "$(realpath "$1")" "$(realpath "$2")" "$(realpath "$3")"
fi
agent=$3
# shellcheck source=tests/two-nodes.bash
source "$(dirname "$0")/two-nodes.bash" "$1" "$2"

# Where each node's disk is, and all loop devices.
declare -A disk
loops=()
detach() {
    fsfreeze --unfreeze "$dir/frozen" 2>/dev/null || true
    # What uses them must end first.
    for process in "${pid[@]}"; do
        kill -KILL "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    umount --quiet "$dir/frozen" || true
    for device in "${loops[@]}"; do losetup --detach "$device"; done
    umount --quiet "$dir/full" || true
    clean_up
}
trap detach EXIT

# over FILE [BYTES]: a loop device over it, in $device.
over() {
    truncate -s "${2:-64M}" "$1"
    device=$(losetup --find --show "$1")
    loops+=("$device")
}

# on NODE POLICY [TIMEOUT_S]: its disk is where it is, and does that about errors.
on() {
    local timeout=${3:+"\\ntimeout_s = $3"}
    sed -i "s|^path = .*|path = \"${disk[$1]}\"|; /^on_error/d; /^timeout_s/d; s|^serial = .*|&\non_error = \"$2\"$timeout|" "$dir/$1.toml"
}

# boot NODE: a guest that has not run here before; nothing is known of what was logged before.
boot() {
    : >"$dir/$1.log"
    start "$1"
    ask "$1" promote --cold-boot >/dev/null
}

# logs NODE PATTERN: it must come to be in its log within 8 s.
logs() {
    local i
    for ((i = 0; i < 80; i++)); do
        if grep -Eq "$2" "$dir/$1.log"; then break; fi
        sleep 0.1
    done
    grep -E "$2" "$dir/$1.log"
}

# acts NODE ACTION: as Pacemaker asks the agent to.
acts() {
    env HA_RSCTMP="$dir" OCF_RESOURCE_INSTANCE=web OCF_RESKEY_config="$dir/$1.toml" OCF_RESKEY_binary="$replicator" \
        OCF_RESKEY_CRM_meta_timeout=3000 "$agent" ocf "$2" && echo "has succeeded"
}

# is_there NODE: whether anything of its process is left, as the agent finds it.
is_there() { cat "/proc/${pid[$1]}/task/"*/cmdline 2>/dev/null | tr '\0' ' ' | grep -o 'run --config' | sort -u; }
# is_gone NODE: it must come to be so within 8 s.
is_gone() {
    local i
    for ((i = 0; i < 80; i++)); do
        if [ -z "$(is_there "$1")" ]; then break; fi
        sleep 0.1
    done
    if [ -z "$(is_there "$1")" ]; then echo gone; else is_there "$1"; fi
}

over "$dir/disk-beta" && disk[beta]=$device

echo "== an image that ends too early: EIO"
over "$dir/disk-alpha" && disk[alpha]=$device
cut() { truncate -s 0 "$dir/disk-alpha"; }
mend() { truncate -s 64M "$dir/disk-alpha"; }
on alpha report
cut
"$replicator" create "$dir/alpha.toml" >/dev/null
boot alpha
says "the guest is told of an error" 'read of .* failed.*the guest is told' logs alpha 'the guest is told'
dies alpha

on alpha pause
boot alpha
says "or stands still" 'read of .* failed.*stands still until it succeeds' logs alpha 'stands still'
sleep 3
says "for as long as it lasts" '^0$' sh -c "grep -c 'goes on' '$dir/alpha.log' || true"
mend
says "and goes on when the disk is well" 'has succeeded; the guest goes on' logs alpha 'goes on'
dies alpha

on alpha failover
on beta failover
cut
boot alpha
says "without a standby it stands still, too" 'stands still until it succeeds' logs alpha 'stands still'
start beta
becomes "with one it goes on there" beta 'beta .*: primary'
sleep 1
says "where its request was done" '"reads":[1-9][0-9]*,.*"errors":0' ask beta status --json
says "and the other follows" 'PROTECTED' ask beta status
dies alpha
dies beta

echo "== a file system without space: ENOSPC"
mkdir "$dir/full"
mount -t tmpfs -o size=1M tmpfs "$dir/full"
over "$dir/full/disk" && disk[alpha]=$device
fill() { head -c 2M /dev/zero >"$dir/full/filler" 2>/dev/null || true; }
fill
on alpha report
boot alpha
says "the guest is told of an error" 'write of .* failed: No space left on device.*the guest is told' logs alpha 'the guest is told'
dies alpha

on alpha pause
boot alpha
says "or stands still" 'write of .* failed: No space left on device.*stands still' logs alpha 'stands still'
rm "$dir/full/filler"
says "and goes on when there is space" 'has succeeded; the guest goes on' logs alpha 'goes on'
says "having written" '"writes":[1-9]' ask alpha status --json
dies alpha

fallocate --punch-hole --offset 0 --length 64M "$dir/full/disk"
truncate -s 0 "$dir/disk-beta" && truncate -s 64M "$dir/disk-beta"
fill
on alpha failover
boot alpha
says "without a standby it stands still, too" 'No space left on device.*stands still' logs alpha 'stands still'
start beta
becomes "with one it goes on where there is space" beta 'beta .*: primary'
sleep 1
says "and its request was done" '"writes":[1-9]' ask beta status --json
dies alpha
dies beta

echo "== a file system that is frozen: nothing is ever done"
over "$dir/frozen.img"
mkfs.ext4 -q "$device"
mkdir "$dir/frozen"
mount "$device" "$dir/frozen"
disk[alpha]=$dir/frozen/disk
freeze() {
    truncate -s 0 "${disk[alpha]}" && truncate -s 16M "${disk[alpha]}"
    fsfreeze --freeze "$dir/frozen"
}
thaw() { fsfreeze --unfreeze "$dir/frozen"; }
on alpha report 1
freeze
boot alpha
says "the guest is told" 'write of .* is not done after 1 s; the guest is told' logs alpha 'the guest is told'
thaw
dies alpha

on alpha pause 1
freeze
boot alpha
says "or stands still" 'write of .* is not done after 1 s.*stands still until it succeeds' logs alpha 'stands still'
thaw
says "and goes on when it is done" 'has succeeded; the guest goes on' logs alpha 'goes on'
dies alpha

truncate -s 0 "$dir/disk-beta" && truncate -s 16M "$dir/disk-beta"
losetup --set-capacity "${disk[beta]}"
on alpha failover 1
freeze
boot alpha
says "without a standby it stands still, too" 'is not done after 1 s.*stands still' logs alpha 'stands still'
start beta
says "with one its node ends" 'may still be done, and the standby is to resume the guest' logs alpha 'may still be done'
sleep 1
says "but not while the write may land" 'run --config' is_there alpha
says "which the agent knows" '^ocf-exit-reason:the replicator runs, but does not answer$' acts alpha monitor
says "who cannot stop it, so it is to be fenced" '^ocf-exit-reason:the replicator does not end, even by SIGKILL$' acts alpha stop
says "nor is there another in its place" 'another kemari-replicator' timeout 5 "$replicator" run --config "$dir/alpha.toml"
says "and nothing was handed over" 'beta .*: standby' ask beta status
thaw
says "only then it is gone" '^gone$' is_gone alpha
says "and the agent knows" '^has succeeded$' acts alpha stop
wait "${pid[alpha]}" 2>/dev/null || true
says "and the guest goes on on the standby" 'the guest goes on here' ask beta promote
sleep 1
says "where its request was done" '"writes":[1-9]' ask beta status --json

[ "$failures" -eq 0 ]
