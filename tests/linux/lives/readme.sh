#!/bin/sh
# The guest of the README, with its configuration, word for word.
# shellcheck disable=SC2154,SC2317 # the rooms' variables; it is sourced
echo "== as the README says: the distribution's kernel, 2 vCPUs, root on a disk"
configure ""
# What the README says nothing of.
sed -i '/^\[console\]/,$d' alpha/etc/debian.toml beta/etc/debian.toml
for node in $nodes; do in_node "$node" /sbin/ip link delete tap-debian; done
rm -f alpha/etc/debian.key beta/etc/debian.key
while read -r line <&3; do
    case $line in *' shutdown '*) break ;; esac
    as_readme "$line" || return
done 3</host/readme.commands
becomes "it answers" 180 guest_answers
becomes "beta protects it" 240 status_of alpha PROTECTED
says "2 CPUs" '^2$' in_guest nproc
says "its root is on the disk" '/dev/vda / ext4' in_guest 'cat /proc/mounts'
kernel_log
talk
work "$(echo "$copying" | tr '\n' ' ')"
sleep 3
watch_clocks
take_over alpha beta 4 && protect alpha beta || return
clocks_are_right 2 4
says "it was told that it is elsewhere" '^1$' in_guest 'wc -l </run/failovers'
worked "what was copied at the kill is whole"
work "$(echo "$packaging" | tr '\n' ' ')"
sleep 3
watch_clocks
take_over beta alpha 4 && protect beta alpha || return
clocks_are_right 2 4
says "it was told twice that it is elsewhere" '^2$' in_guest 'wc -l </run/failovers'
worked "what was installed at the kill is whole"
hush "one session and one exchange through both"
kernel_is_content
# It is on the first again.
as_readme "$line"
is_down alpha
check "its file system is clean" /sbin/e2fsck -fn /dev/vda
