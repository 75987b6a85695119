#!/bin/sh
# The guest leaves a node whose hardware is failing; the standby there stays for as long as the node does.
#
# For: nodes on which something sets the node attribute #health-mce to `red`: kemari-mce-monitor, or an operator:
#     attrd_updater --name '#health-mce' --update red --node alpha
# The score is chosen with care. A standby in sync has 50 and the primary 100, so -90 moves the guest if there is a standby in
# sync, and leaves it running if there is none. -INFINITY would stop it.
set -eu

# node-health-red=0: colour alone does not drive the standby away.
pcs property set node-health-strategy=custom node-health-red=0
pcs constraint location web-clone rule role=Promoted score=-90 '#health-mce' eq red

crm_resource --wait
pcs constraint
crm_mon -1 -A
