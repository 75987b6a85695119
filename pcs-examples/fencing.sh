#!/bin/sh
# Fencing: a node that is lost is switched off before its guest goes on elsewhere.
#
# For: every cluster that is to survive the death of a whole node. A lost node may still write to the shared disk; only
# switching it off makes sure that it does not. With the default stonith-enabled=true nothing starts before there is a device.
#
# usage: fencing.sh NODE ADDRESS NODE ADDRESS           each node by its own BMC, with IPMI
#        fencing.sh --shared AGENT [OPTION=VALUE]...    every node by one device; `pcs stonith list` has the agents
set -eu

case ${1:-} in
--shared)
    shift
    pcs stonith create fence "$@" op monitor interval=60s
    ;;
'')
    echo "usage: fencing.sh NODE ADDRESS NODE ADDRESS | --shared AGENT [OPTION=VALUE]..." >&2
    exit 2
    ;;
*)
    while [ $# -gt 0 ]; do
        pcs stonith create "fence-$1" fence_ipmilan ip="$2" username=fence password_script=/etc/kemari/fence-password lanplus=1 \
            pcmk_host_list="$1" op monitor interval=60s
        # A node that is to be switched off is the last one to be asked.
        pcs constraint location "fence-$1" avoids "$1"
        shift 2
    done
    ;;
esac

# When the link between the nodes is cut, both live and both want to fence. The one without the guest waits for 2 s and so
# loses. This needs priority=10 on the guest, which two-nodes.sh gives it.
pcs property set priority-fencing-delay=2s
pcs property set stonith-enabled=true

crm_resource --wait
pcs property config
crm_mon -1
