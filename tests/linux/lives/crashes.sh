#!/bin/sh
# A guest that crashes by itself, whatever its host is like.
# shellcheck disable=SC2154,SC2317 # the rooms' variables; it is sourced

# panics_soon: not as an answer to the client, who would ask again.
panics_soon() { check "it will panic" in_guest '(sleep 2; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &'; }
has_ended() { eval "! kill -0 \$pid_$1"; }

echo "== crashes: booted anew"
configure "" 's/vcpus = 2/vcpus = 1\nwatchdog = true/'
boot && protect beta alpha || return
panics_soon
becomes "a panic boots it again" 180 has_booted 2
becomes "it answers again" 180 guest_answers
says "why is on the console" 'Kernel panic - not syncing' cat console
says "it is counted" 'crashes +1, the last one: panic' ask alpha status
becomes "it is protected" 180 status_of alpha PROTECTED
check "its watchdog is fed once" in_guest 'echo >/dev/watchdog'
take_over alpha beta 4 && protect alpha beta || return
says "it was still counted" 'crashes +1, the last one: panic' ask beta status
check "it has not booted again" has_booted 2
becomes "a watchdog that is not fed boots it again" 180 has_booted 3
says "that is counted, too" 'crashes +2, the last one: watchdog' ask beta status
for node in $nodes; do kill_node "$node"; done

echo "== crashes: failed over once"
configure "" 's/vcpus = 2/vcpus = 1\non_guest_panic = "failover-once"/'
boot && protect beta alpha || return
panics_soon
becomes "its node ends" 180 has_ended alpha
says "beta goes on" 'the guest goes on here' ask beta promote
check "it has not booted again" has_booted 1
becomes "it crashes again, and boots" 180 has_booted 2
for node in $nodes; do kill_node "$node"; done

echo "== crashes: stopped"
configure "" 's/vcpus = 2/vcpus = 1\non_guest_panic = "stop"/'
boot || return
panics_soon
becomes "it stands still" 180 status_of alpha halted
check "it has not booted again" has_booted 1
check "it is reset" ask alpha reset
becomes "it boots" 180 has_booted 2
