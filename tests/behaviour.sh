#!/usr/bin/env bash
# What an operator sees when something is wrong, and what SIGTERM does: two real nodes in a network namespace of their own.
#
# usage: tests/behaviour.sh REPLICATOR GUEST_ELF (as root, with /dev/kvm)
set -euo pipefail

if [ -z "${KEMARI_IN_NAMESPACE:-}" ]; then
    KEMARI_IN_NAMESPACE=1 exec unshare --net -- "$0" "$(realpath "$1")" "$(realpath "$2")"
fi
# shellcheck source=tests/two-nodes.bash
source "$(dirname "$0")/two-nodes.bash" "$1" "$2"

says "check finds everything" 'ok +tap tap-alpha' "$replicator" check "$dir/alpha.toml"
cp "$dir/alpha.toml" "$dir/odd.toml"
odd() { # SED_EXPRESSION: what `run` says of alpha's configuration when it is changed so
    sed "$1" "$dir/alpha.toml" >"$dir/odd.toml"
    timeout 10 "$replicator" run --config "$dir/odd.toml"
}
says "a missing kernel is refused at once" 'guest.kernel = "/nowhere/vmlinuz": No such file' odd 's|^kernel.*|kernel = "/nowhere/vmlinuz"|'
says "what is no kernel, too" 'guest.kernel = "/proc/version": neither a bzImage' odd 's|^kernel.*|kernel = "/proc/version"|'
ln -s "$dir/disk" "$dir/alias"
says "a disk is one by whatever name" "disk.1..path = \"$dir/alias\": .*the same as $dir/disk" \
    odd "s|^\[console\]|[[disk]]\npath = \"$dir/alias\"\nserial = \"alias\"\n[console]|"
says "promotion before creation is refused" 'is the replicator running' ask alpha promote
says "create names the node" 'guest web created' "$replicator" create "$dir/alpha.toml"
sed -i "s|^kernel.*|kernel = \"$dir/guest.elf\"|" "$dir/alpha.toml"
cp "$guest" "$dir/guest.elf"
says "create works once" 'exists' "$replicator" create "$dir/alpha.toml"
start alpha
says "check knows the replicator that runs" 'in use by this guest' "$replicator" check "$dir/alpha.toml"
says "a busy port is refused by name" 'link.listen' odd "s|^state_dir.*|state_dir = \"$dir/odd.state\"|; s|^control.*|control = \"$dir/odd.sock\"|"
sleep 60 | ask alpha console >"$dir/console.out" 2>&1 &
pid[console]=$!
mv "$dir/guest.elf" "$dir/elsewhere.elf"
says "a kernel that is gone when the guest is to boot" 'not booted: guest.kernel.*No such file.*--cold-boot' ask alpha promote
mv "$dir/elsewhere.elf" "$dir/guest.elf"
says "the guest boots when it is back" 'the guest boots here' ask alpha promote --cold-boot

configure beta 7042 7041 128 key
start beta
becomes "another memory size is refused by name" alpha 'memory_mib: alpha has 64, beta has 128'
ends beta
configure beta 7042 7041 64 key
sed -i 's/^name = "web"/name = "db"/' "$dir/beta.toml"
start beta
becomes "another guest is refused by name" alpha 'guest: alpha has web, beta has db'
ends beta
configure beta 7042 7041 64 key
sed -i 's/flush=1/flush=0/' "$dir/beta.toml"
start beta
becomes "another command line is refused" alpha 'cmdline: alpha has [0-9]+ bytes \(crc32c'
ends beta
configure beta 7042 7041 64 other
start beta
for ((i = 0; i < 200; i++)); do # after a refusal the primary takes its time
    if grep -q "have our key" "$dir/beta.log"; then break; fi
    sleep 0.1
done
says "another key is refused" 'does not have our key' cat "$dir/beta.log"
ends beta
configure beta 7042 7041 64 key
start beta
becomes "the right one protects" alpha PROTECTED
says "Prometheus can read how it is" '^kemari_protected\{guest="web",node="alpha"\} 1\.0$' "$replicator" metrics "$dir/alpha.sock"

says "checkpoints can be had more often" 'lasts 20 ms at most' ask alpha pace --max-epoch-ms 20
before=$(ask alpha status --json | sed -n 's/.*"checkpoints":{"count":\([0-9]*\).*/\1/p')
sleep 1
after=$(ask alpha status --json | sed -n 's/.*"checkpoints":{"count":\([0-9]*\).*/\1/p')
says "and are" '^yes$' sh -c "[ $((after - before)) -gt 20 ] && echo yes || echo $((after - before)) in a second"
says "but not more rarely than configured" 'lasts 1000 ms at most' ask alpha pace --max-epoch-ms 60000
says "until they are reset" 'lasts 1000 ms at most' ask alpha pace

# What sits in a dead host's page cache is lost, and a kill on one machine cannot show it: so nothing may ever be there.
says "nothing of the disk is in the page cache" '^ *0$' fincore --noheadings --output PAGES "$dir/disk"
for node in alpha beta; do
    says "$node opens the disk O_DIRECT" '^flags:.*4....$' bash -c "grep -h flags: \
        \$(ls -l /proc/${pid[$node]}/fd | sed -n 's|.* \([0-9]*\) -> $dir/disk|/proc/${pid[$node]}/fdinfo/\1|p')"
done
says "a standby is not promoted while the primary lives" 'lives, and answers as primary' ask beta promote
says "one process per state directory" 'another kemari-replicator' "$replicator" run --config "$dir/beta.toml"
says "the control socket is for root" '^600$' stat -c %a "$dir/alpha.sock"
head -c 100000 /dev/urandom 2>/dev/null | timeout 1 bash -c 'cat >/dev/tcp/127.0.0.1/7042' 2>/dev/null || true
says "garbage on the port harms nobody" PROTECTED ask alpha status

ends alpha
becomes "SIGTERM hands the guest over" beta 'beta .*: primary'
start alpha
becomes "the other way round" beta PROTECTED
says "an attached console attaches again" 'attached again' cat "$dir/console.out"
kill "${pid[console]}"
ends alpha
becomes "a standby that leaves says so" beta 'trouble +stopped'
says "output is held until the operator consents" 'gate +closed' ask beta status
says "consent" 'runs unprotected' ask beta run-unprotected
start alpha
becomes "protected again" beta PROTECTED
kill -STOP "${pid[beta]}"
sleep 0.5
says "a hung primary is replaced" 'the guest goes on here' ask alpha promote
kill -CONT "${pid[beta]}"
becomes "and knows it when it wakes" beta 'beta .*: standby'
ends beta
says "consent of the other" 'runs unprotected' ask alpha run-unprotected
ends alpha
says "the guest was shut down" 'the guest has shut down' cat "$dir/alpha.log"
# shellcheck disable=SC2016 # the other shell expands them
without_dev() { unshare --mount -- bash -c 'mount -t tmpfs none /dev && exec "$@"' - "$@"; }
says "no KVM is named" '/dev/kvm' without_dev "$replicator" run --config "$dir/alpha.toml"
chmod 755 "$dir"
says "not being root is named" 'root' setpriv --reuid 65534 --clear-groups "$replicator" run --config "$dir/alpha.toml"
chmod 644 "$dir/key"
says "a key that others can read is refused" 'chmod 600' "$replicator" run --config "$dir/alpha.toml"

[ "$failures" -eq 0 ]
