#!/bin/sh
# A guest that reboots is the same guest: it stays protected.
# shellcheck disable=SC2154,SC2317 # the rooms' variables; it is sourced
echo "== 2 vCPUs, and a reboot while it is protected"
configure ""
boot && protect beta alpha || return
timeout 5 peer run "$guest" 'reboot -f' >/dev/null 2>&1
becomes "it boots again" 180 has_booted 2
becomes "it answers again" 180 guest_answers
says "2 CPUs" '^2$' in_guest nproc
becomes "it is protected" 180 status_of alpha PROTECTED
kernel_log
talk
sleep 2
watch_clocks
take_over alpha beta 4 && protect alpha beta || return
hush "one session and one exchange"
clocks_are_right 2 4
kernel_is_content
check "it has not booted again" has_booted 2
shut_down beta
check "its file system is clean" /sbin/e2fsck -fn /dev/vda
