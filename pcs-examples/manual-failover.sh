#!/bin/sh
# Moves the guest to the other node by hand, and takes the constraint away that this leaves.
#
# For: trying it out, and for work on the node that runs the guest. The guest stands still for some milliseconds; its TCP
# connections go on; replication then runs the other way, without a full resync.
set -eu

# The clone, not the primitive: the ban of `--move -r web` is one that `--clear -r web-clone` would not remove.
crm_resource --move -r web-clone --promoted
crm_resource --wait
crm_mon -1

# Without the ban the node may become primary again. The guest stays where it is.
crm_resource --clear -r web-clone
crm_resource --wait
crm_mon -1 -A
