#!/bin/sh
# Fencing: a node that is lost is switched off before its guest goes on elsewhere.
#
# For: every cluster that is to survive the death of a whole node. A lost node may still write to the shared disk; only
# switching it off makes sure that it does not. The example uses IPMI; every agent of `pcs stonith list` will do.
#
# usage: fencing.sh [AGENT [OPTION=VALUE]...]   (default: fence_ipmilan with the addresses below)
set -eu

if [ $# -eq 0 ]; then
    set -- fence_ipmilan username=fence password_script=/etc/kemari/fence-password ip=192.0.2.10
fi

# When the link between the nodes is cut, both live and both want to fence. The one without the guest waits for 2 s and so
# loses. This needs priority=10 on the guest, which two-nodes.sh gives it.
pcs stonith create fence "$@" op monitor interval=60s
pcs property set priority-fencing-delay=2s
pcs property set stonith-enabled=true

crm_resource --wait
pcs property config
crm_mon -1
