#!/bin/sh
# In the emulated host: two nodes, each in namespaces of its own, that protect a Debian Linux guest; its clients are outside of both.
# Prints a line for each check, "ok" or "FAILED", and a total at the end.
#
# A life (lives/NAME.sh) is what a guest goes through from its creation to its end; it says `return` when there is no sense in going on.
# shellcheck disable=SC2154 # the rooms' variables
set -u
cd /tmp || exit 1
for room in checks monitor nodes guest; do
    # shellcheck source=/dev/null
    . "/host/inside/$room.sh"
done
cp /host/programs/* /bin/

network
lives=$(cat /host/lives-to-run)
for life in $lives; do
    # shellcheck source=/dev/null
    . "/host/lives/$life.sh"
    for node in $nodes; do kill_node "$node"; done
done
echo "== $passed ok, $failed FAILED"
