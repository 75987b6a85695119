#!/bin/sh
# One vCPU, and an operator at the console.
# shellcheck disable=SC2016,SC2154,SC2317 # the guest's shell expands; the rooms' variables; it is sourced

# A terminal that stays open for a while.
another_terminal() { sleep 5 | in_node alpha kemari-replicator console debian; }

# All that the terminal says itself. A standby that has just begun has no primary yet.
told_all() {
    cat >expected <<'END'
[attached; leave with Ctrl-]]
[the console is gone; waiting for it to come back]
[attached again]
[the guest runs on beta; here it is heard from when it runs here]
[the guest runs here]
END
    grep -v 'no primary is connected' told | diff expected -
}

echo "== 1 vCPU, and a terminal at its console"
configure "" 's/vcpus = 2/vcpus = 1/'
sed -i 's#file:/tmp/console#socket:/run/debian.console#' alpha/etc/debian.toml beta/etc/debian.toml
boot && protect beta alpha || return
says "1 CPU" '^1$' in_guest nproc
kernel_log

rm -f typed
mkfifo typed
(enter alpha kemari-replicator console debian) <typed >shown 2>told &
terminal=$!
exec 4>typed
echo 'echo $((6 * 7)) is said' >&4
becomes "the console answers" 60 grep -q '42 is said' shown
says "another terminal is told that only one can be" 'only one can be at a time' another_terminal

watch_clocks
take_over alpha beta 4 && protect alpha beta || return
clocks_are_right 1 4
says "it was told that it is elsewhere" '^1 ' in_guest 'wc -l /run/failovers'
becomes "the terminal is told where it runs" 60 grep -q 'the guest runs on beta' told
check "a planned move" ask beta handover
says "it was told of that, too" '^2 ' in_guest 'wc -l /run/failovers'
echo 'echo $((7 * 7)) is said' >&4
becomes "the console answers again" 60 grep -q '49 is said' shown
becomes "the terminal was told all of it" 60 told_all
printf "\035" >&4
check "the terminal leaves" wait "$terminal"
exec 4>&-
kernel_is_content
shut_down alpha
