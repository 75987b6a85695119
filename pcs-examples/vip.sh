#!/bin/sh
# A service address that follows the guest: on the host that runs it, and only there.
#
# For: things on the host that go with the guest, here an address by which the host is reached. The guest's own addresses
# need nothing: they are inside it, and the replicator announces its new place to the switches.
#
# usage: vip.sh ADDRESS [PREFIX_LENGTH]
set -eu

pcs resource create vip ocf:heartbeat:IPaddr2 ip="$1" cidr_netmask="${2:-24}" op monitor interval=10s
pcs constraint colocation add vip with Promoted web-clone INFINITY
pcs constraint order promote web-clone 'then' start vip

crm_resource --wait
pcs constraint
crm_mon -1
