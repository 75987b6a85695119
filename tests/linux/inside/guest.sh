#!/bin/sh
# The guest, as its clients see it and as it sees itself.
# shellcheck disable=SC2034,SC2154 # the other rooms' variables
guest=10.9.0.2

# has_booted TIMES: since it was configured, by what its first process says at the console.
has_booted() { [ "$(grep -c 'has booted' /tmp/console)" -eq "$1" ]; }
in_guest() { timeout 120 peer run "$guest" "$1"; }
guest_answers() { timeout 5 peer run "$guest" true; }

# talk: begins a session and an exchange; hush: ends them, and they must have gone well.
talk() {
    rm -f hush
    peer talk "$guest" /tmp/hush >talked 2>&1 &
    talking=$!
}
hush() {
    touch hush
    if wait "$talking"; then ok "$1: $(cat talked)"; else fail "$1" talked; fi
}

# work COMMAND: begins it in the guest; worked NAME: it must have gone well.
work() {
    timeout 240 peer run "$guest" "$1" >worked 2>&1 &
    working=$!
}
worked() { if wait "$working"; then ok "$1: $(tail -n 1 worked)"; else fail "$1" worked; fi; }

# watch_clocks: right before an outage, which a timer of the guest then spans.
watch_clocks() { check "its clocks are watched" peer mark "$guest" /tmp/mark; }

# clocks_are_right CPUS OUTAGE: what they must be after an outage of so many seconds. What is wrong stays so; but the timer must
# expire first.
clocks_are_right() {
    limit=$(($(now) + 60))
    until peer clocks "$guest" /tmp/mark --cpus "$1" --outage-ms "${2}000" >clocks_said 2>&1; do
        [ "$(now)" -lt "$limit" ] || { fail "its clocks" clocks_said; return; }
        sleep 1
    done
    ok "its clocks: $(cat clocks_said)"
}

# acpi_is_sound: the tables that the guest was given can be taken apart, and put together again, and nobody complains.
# shellcheck disable=SC2016 # the guest's shell expands it
acpi_is_sound() {
    for table in $(in_guest 'cd /sys/firmware/acpi/tables; for table in *; do [ ! -f $table ] || echo $table; done'); do
        in_guest "base64 /sys/firmware/acpi/tables/$table" | base64 -d >"$table.aml"
        /sbin/iasl -d "$table.aml" >iasl.log 2>&1 && /sbin/iasl "$table.dsl" >>iasl.log 2>&1
        if grep -q '0 Errors, 0 Warnings' iasl.log && ! grep -Ei 'warning +[0-9]|error +[0-9]|invalid|incorrect' iasl.log; then
            ok "ACPI's $table is sound"
        else
            fail "ACPI's $table is sound" iasl.log
        fi
    done
    [ -s DSDT.aml ] || fail "it shows its ACPI tables"
}

# The kernel's log has nothing, since kernel_log, of what a failover must not cause.
kernel_log() { in_guest 'dmesg -c' >kernel.log 2>&1; }
kernel_is_content() {
    grep -q 'Linux version' kernel.log || fail "its kernel's log" kernel.log
    kernel_log
    if grep -Ei 'lockup|stall|hung|blocked for|clocksource|tsc|I/O error|EXT4-fs error|BUG|WARNING|Call Trace|peer serve' kernel.log >complaints; then
        fail "its kernel is content" complaints
    else
        ok "its kernel is content"
    fi
}

# shut_down NODE: by the power button; then both replicators end.
shut_down() {
    says "the power button shuts it down" 'the guest is down' ask "$1" shutdown
    is_down "$1"
}
# is_down NODE: and not by Ctrl-Alt-Del, which would be a reset.
is_down() {
    says "which it did by itself" 'shut down by itself' cat "$1.log"
    for node in $nodes; do kill_node "$node"; done
}

# shellcheck disable=SC2016 # the guest's shell expands it
copying='dd if=/dev/urandom of=/tmp/source bs=1M count=12; for copy in 1 2 3; do dd if=/tmp/source of=/root/copy$copy bs=64k conv=fsync; done; echo 3
    >/proc/sys/vm/drop_caches; for copy in 1 2 3; do cmp /tmp/source /root/copy$copy || exit 1; done; echo copied'
# shellcheck disable=SC2016 # the guest's shell expands it
packaging='set -e; cd /root; for i in $(seq 150); do d=p/$((i % 10)); mkdir -p $d; echo $i >$d/$i.new; mv $d/$i.new $d/$i; [ $((i % 10)) != 0 ] ||
    sync; done; sync; echo 3 >/proc/sys/vm/drop_caches; for i in $(seq 150); do read -r n <p/$((i % 10))/$i; [ $n = $i ]; done; echo installed'

# segments_travel_whole NODE: after a bulk transfer the mean frame of its first card, each way, is larger than any packet.
segments_travel_whole() {
    # While nobody protects the guest: where every checkpoint takes a third of a second, TCP's window is never full.
    check "every byte of a bulk transfer is right" timeout 100 peer bulk "$guest" 4
    ask "$1" status --json >status.json
    # shellcheck disable=SC2046 # four numbers
    set -- $(sed -n 's/.*"nics":\[{"tap":"tap-debian","sent_frames":\([0-9]*\),"sent_bytes":\([0-9]*\),"received_frames":\([0-9]*\),"received_bytes":\([0-9]*\).*/\1 \2 \3 \4/p' status.json) 1 0 1 0
    sent=$(($2 / $1))
    received=$(($4 / $3))
    if [ "$sent" -gt 1514 ] && [ "$received" -gt 1514 ]; then
        ok "segments travel whole: $sent bytes a frame sent, $received received"
    else
        fail "segments travel whole: $sent bytes a frame sent, $received received" status.json
    fi
}
