#!/bin/sh
# Two nodes that protect one guest, whose disk both can open.
#
# For: the smallest cluster that survives the death of a host. Run it on one node, once, when the cluster is up and
# /etc/kemari/web.toml is on both nodes (`kemari-replicator check /etc/kemari/web.toml` says what is missing). Fencing comes
# before: fencing.sh. Who sets stonith-enabled=false instead has a guest that survives the death of a replicator, and stands still
# when a whole node is lost.
set -eu

# This node is to boot the guest for the first time. On a guest that ran before this is refused, and nothing is lost.
kemari-replicator create /etc/kemari/web.toml

# migration-threshold=1: a replicator that failed is not started again where it failed; the guest goes on on the other node.
# failure-timeout: after that the node may be standby again. The two monitors only make sure: what happens is reported at once.
pcs resource create web ocf:kemari:guest config=/etc/kemari/web.toml \
    op monitor interval=10s role=Promoted timeout=20s monitor interval=11s role=Unpromoted timeout=20s \
    promotable promoted-max=1 clone-max=2 interleave=true migration-threshold=1 failure-timeout=10s priority=10

crm_resource --wait
crm_mon -1 -A
