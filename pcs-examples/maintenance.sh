#!/bin/sh
# Empties a node for maintenance, and takes it back.
#
# For: updates that need a reboot. `standby` moves the guest away if it runs there and ends the replicator; the other node runs
# it unprotected meanwhile. With `unstandby` the node is brought in sync again, and protection is back by itself.
#
# usage: maintenance.sh begin|end NODE
set -eu

case $1 in
begin) pcs node standby "$2" ;;
end) pcs node unstandby "$2" ;;
*) exit 2 ;;
esac

crm_resource --wait
crm_mon -1 -A
