#!/usr/bin/env bash
# Disks that fail requests of the guest: real errors, of loop devices over files that were cut short.
#
# usage: tests/disk-errors.sh REPLICATOR GUEST_ELF (as root, with /dev/kvm and losetup)
set -euo pipefail

if [ -z "${KEMARI_IN_NAMESPACE:-}" ]; then
    KEMARI_IN_NAMESPACE=1 exec unshare --net -- "$0" "$(realpath "$1")" "$(realpath "$2")"
fi
# shellcheck source=tests/two-nodes.bash
source "$(dirname "$0")/two-nodes.bash" "$1" "$2"

declare -A loop
detach() {
    # What uses them must end first.
    for process in "${pid[@]}"; do
        kill -KILL "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    for device in "${loop[@]}"; do losetup --detach "$device"; done
    clean_up
}
trap detach EXIT

# on NODE POLICY: its disk is a loop device over a file of its own, and does that about errors.
on() {
    if [ -z "${loop[$1]:-}" ]; then
        truncate -s 64M "$dir/disk-$1"
        loop[$1]=$(losetup --find --show "$dir/disk-$1")
    fi
    sed -i "s|^path = .*|path = \"${loop[$1]}\"|; /^on_error/d; s|^serial = .*|&\non_error = \"$2\"|" "$dir/$1.toml"
}
cut() { truncate -s 0 "$dir/disk-$1"; }
mend() { truncate -s 64M "$dir/disk-$1"; }
# logs NODE PATTERN: it must come to be in its log within 8 s.
logs() {
    local i
    for ((i = 0; i < 80; i++)); do
        if grep -Eq "$2" "$dir/$1.log"; then break; fi
        sleep 0.1
    done
    grep -E "$2" "$dir/$1.log"
}

on alpha report
cut alpha
"$replicator" create "$dir/alpha.toml" >/dev/null
start alpha
ask alpha promote >/dev/null
says "the guest is told of an error" 'read of .* failed.*the guest is told' logs alpha 'the guest is told'
dies alpha

on alpha pause
: >"$dir/alpha.log"
start alpha
ask alpha promote --cold-boot >/dev/null
says "or stands still" 'read of .* failed.*stands still until it succeeds' logs alpha 'stands still'
sleep 3
says "for as long as it lasts" '^0$' sh -c "grep -c 'goes on' '$dir/alpha.log' || true"
mend alpha
says "and goes on when the disk is well" 'has succeeded; the guest goes on' logs alpha 'goes on'
dies alpha

on alpha failover
on beta failover
cut alpha
: >"$dir/alpha.log"
start alpha
ask alpha promote --cold-boot >/dev/null
says "without a standby it stands still, too" 'stands still until it succeeds' logs alpha 'stands still'
start beta
becomes "with one it goes on there" beta 'beta .*: primary'
sleep 1
says "where its request was done" '"reads":[1-9][0-9]*,.*"errors":0' ask beta status --json
says "and the other follows" 'PROTECTED' ask beta status

[ "$failures" -eq 0 ]
