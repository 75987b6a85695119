#!/bin/sh
# Each node is watched for hardware errors, and the guest leaves a node that should be left.
#
# For: not waiting until a failing node dies. kemari-mce-monitor runs on every node and sets #health-mce; red is what the guest
# leaves, and it is published only while the guest has a standby in sync on a node that is not red.
#
# usage: health-mce.sh demote|migrate
#   demote   the guest moves, and its standby stays on the node for as long as that lasts: the guest is protected all the time.
#            The score is chosen with care: a standby in sync has 50 and the primary 100, so -90 moves the guest if there is a
#            standby in sync, and leaves it running if there is none.
#   migrate  everything leaves the node: the guest moves, and runs unprotected until there is another node, or this one is well.
set -eu

case $1 in
demote)
    # node-health-red=0: colour alone does not drive the standby away.
    pcs property set node-health-strategy=custom node-health-red=0
    pcs constraint location web-clone rule role=Promoted score=-90 '#health-mce' eq red
    ;;
migrate) pcs property set node-health-strategy=migrate-on-red ;;
*) exit 2 ;;
esac

# A node that is red must be watched, too: an operator clears it there.
pcs resource create health-mce ocf:kemari:health-mce \
    op monitor interval=10s timeout=20s \
    clone allow-unhealthy-nodes=true

crm_resource --wait
pcs constraint
crm_mon -1 -A
