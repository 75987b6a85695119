#!/bin/sh
# A fence device for hosts that are namespaces. pacemaker-fenced gives options as key=value lines on stdin; called to be listed,
# it gives none, and then nothing is done.
action=metadata port=
while read -r line; do
    case $line in
    action=*) action=${line#action=} ;;
    port=* | nodename=*) port=${line#*=} ;;
    esac
done

case $action in
metadata)
    cat <<'XML'
<?xml version="1.0"?>
<resource-agent name="fence_kemari_test" shortdesc="Switches off hosts that are namespaces">
  <longdesc>For tests only.</longdesc>
  <parameters>
    <parameter name="action" unique="0" required="1"><content type="string" default="off"/><shortdesc lang="en">What to do</shortdesc></parameter>
    <parameter name="port" unique="0" required="0"><content type="string"/><shortdesc lang="en">Host</shortdesc></parameter>
    <parameter name="ip" unique="0" required="0"><content type="string"/><shortdesc lang="en">As fence_ipmilan has it</shortdesc></parameter>
    <parameter name="username" unique="0" required="0"><content type="string"/><shortdesc lang="en">As fence_ipmilan has it</shortdesc></parameter>
    <parameter name="password_script" unique="0" required="0"><content type="string"/><shortdesc lang="en">As fence_ipmilan has it</shortdesc></parameter>
    <parameter name="lanplus" unique="0" required="0"><content type="boolean"/><shortdesc lang="en">As fence_ipmilan has it</shortdesc></parameter>
  </parameters>
  <actions>
    <action name="on" automatic="0"/><action name="off"/><action name="reboot"/><action name="status"/>
    <action name="monitor"/><action name="list"/><action name="metadata"/>
  </actions>
</resource-agent>
XML
    ;;
on | status | monitor) [ ! -e @DIR@/broken ] ;;
list) printf 'alpha\nbeta\n' ;;
off | reboot)
    [ ! -e @DIR@/broken ] || { echo "the fence device is broken" >&2; exit 1; }
    [ -n "$port" ] || exit 1
    : >"@DIR@/$port.off"
    for _ in $(seq 500); do
        [ -e "@DIR@/$port.off" ] || exit 0
        sleep 0.02
    done
    exit 1
    ;;
*) exit 1 ;;
esac
