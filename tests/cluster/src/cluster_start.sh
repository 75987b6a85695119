#!/bin/bash
# Starts the cluster on a node: what `pcs cluster start` does, without systemd.
#
# usage: cluster-start DIRECTORY
set -eu
dir=$1

export PCMK_logfile=$dir/pacemaker.log PCMK_logfacility=none
corosync -f >>"$dir/corosync.log" 2>&1 &
until corosync-cfgtool -s >/dev/null 2>&1; do sleep 0.05; done
pacemakerd -f >>"$dir/pacemakerd.log" 2>&1 &
