#!/bin/sh
# The monitor of the machine that all this runs in (QEMU's, the human one), which can do what only hardware can: its line is the second
# serial port.

# Before anything else, so that this end never echoes what the monitor says.
stty -F /dev/ttyS1 raw -echo
cat /dev/ttyS1 >/tmp/monitor &

# monitor COMMAND...: has it done; says what was answered.
monitor() {
    before=$(($(wc -c </tmp/monitor) + 1))
    # An empty command first: it ends whatever the line had, and its prompt is one to be passed over.
    printf '\r%s\r' "$*" >/dev/ttyS1
    limit=$(($(now) + 10))
    until [ "$(tail -c "+$before" /tmp/monitor | grep -c '^(qemu) ')" -ge 2 ]; do
        [ "$(now)" -lt "$limit" ] || { echo "the monitor does not answer" && return 1; }
        sleep 0.1
    done
    # Without the prompts, and what was typed, which it redraws at each key.
    tail -c "+$before" /tmp/monitor | tr -d '\r' | grep -v '(qemu)'
}
