#!/bin/bash
# The init of a node: process 1 of its PID namespace, so that killing it is the death of the host.
#
# usage: boot NODE NUMBER DIRECTORY
set -eu
node=$1 number=$2 dir=$3

hostname "$node"
mount --make-rprivate /
# What a node has installed and configured is seen by it alone.
for place in etc usr/sbin usr/lib/ocf; do
    mkdir -p "$dir/upper/$place" "$dir/work/$place"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=$dir/upper/$place,workdir=$dir/work/$place" "/$place"
done
for place in /dev/shm /run /var/lib/corosync /var/log/pacemaker; do mount -t tmpfs tmpfs "$place"; done
mkdir -p /run/lock /run/resource-agents /run/crm /run/kemari
chown hacluster:haclient /run/crm
mount --bind "$dir/pacemaker" /var/lib/pacemaker

# The wires are pushed through from outside, this one last.
until ip link show dev guest0 >/dev/null 2>&1; do sleep 0.02; done
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 || true
ip link set lo up
ip addr add "172.31.7.$number/24" dev ring0
ip addr add "172.31.8.$number/24" dev repl0
ip link add br-web type bridge
ip tuntap add tap-web mode tap vnet_hdr
ip link set guest0 master br-web
ip link set tap-web master br-web
for wire in ring0 repl0 guest0 tap-web br-web; do ip link set "$wire" up; done

"$dir/cluster-start" "$dir"
# bash as process 1 also waits for whoever has lost its parent.
while :; do wait -n || sleep 0.2; done
