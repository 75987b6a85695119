#!/bin/sh
# Waits until the cluster has nothing left to do, by the same question as `crm_resource --wait`: what would be done now? That one
# asks every 2 s, which is most of the time of a test that asks after every step.
for _ in $(seq 900); do
    left=$(crm_simulate --live-check --simulate) || left="* Cluster action: unknown"
    echo "$left" | grep -E '^ *\* (Resource action|Cluster action|Fencing)' >/dev/null || exit 0
    sleep 0.1
done
echo "the cluster does not come to rest; left to do:" >&2
echo "$left" >&2
exit 1
