#!/bin/sh
# A new node in place of a dead one, which will not come back.
#
# For: after a host has died for good. The guest runs on the other node, unprotected. The new host has its own hostname, the
# packages, /etc/kemari/web.toml (with its own [node] and [link]) and a copy of the key. Corosync knows it already (`pcs cluster
# node remove OLD` and `pcs cluster node add NEW`, or the same by hand in corosync.conf).
#
# usage: replace-node.sh OLD
set -eu

# Nothing of the dead node is kept: neither in the cluster's memory nor as a place for the guest.
crm_node --force --remove "$1"
pcs resource cleanup web-clone

# The new node starts a standby by itself, which is brought in sync while the guest runs.
crm_resource --wait
crm_mon -1 -A
