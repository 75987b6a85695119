#!/bin/sh
# The host's memory fails under a guest. What this proves, with machine checks that the emulated hardware really has, a kernel that does
# what it does about them, and a stock Linux guest that runs on:
# - the watcher hears of them through the kernel's own tracepoints and nothing else, and makes the cluster's attribute red;
# - a clock that somebody sets is nothing to it;
# - rasdaemon beside it hears of the same, and goes on when the watcher ends;
# - a page that the guest has not written to since the last checkpoint is mended in place;
# - one that it has written to ends the node, and the guest goes on elsewhere, having lost nothing.
# shellcheck disable=SC2154,SC2317 # the rooms' variables; it is sourced

# MCi_STATUS of AMD's bank 4 for a memory error (asm/mce.h): corrected; and deferred, after which the kernel poisons the page.
corrected=0x9c00410040080a13
deferred=0x9c00510040080a13
tracing=/sys/kernel/tracing
attributes=/tmp/attributes
memory_mib=128

# Pacemaker's two commands, as far as the watcher uses them; beta is there, and well.
stand_ins() {
    mkdir -p "$attributes"
    cat >/bin/attrd_updater <<'END'
#!/bin/sh
name= value= does=update
while [ $# -gt 0 ]; do
    case $1 in
    --name) name=$2 && shift ;;
    --update=*) value=${1#--update=} ;;
    --query) does=query ;;
    --delete) does=delete ;;
    esac
    shift
done
file="/tmp/attributes/$name"
case $does in
query)
    [ -e "$file" ] || exit 105
    echo "<r><attribute name='$name' host='alpha' value='$(cat "$file")'/></r>"
    ;;
delete) rm -f "$file" ;;
update) echo "$value" >"$file" ;;
esac
END
    cat >/bin/crm_mon <<'END'
#!/bin/sh
echo '<r><nodes><node name="alpha" id="1" online="true"/><node name="beta" id="2" online="true"/></nodes></r>'
END
    chmod +x /bin/attrd_updater /bin/crm_mon
}

attribute() { [ "$(cat "$attributes/#health-mce" 2>/dev/null)" = "$1" ]; }
records() { in_node alpha kemari-mce-monitor status --json | sed -n 's/.*"records":\([0-9]*\),"sources".*/\1/p'; }
heard() { [ "$(records)" -ge "$1" ]; }
# The other's count of machine checks.
rasdaemon_heard() { [ "$(grep -c mce_record rasdaemon.out)" -ge "$1" ]; }
mended() { in_node alpha kemari-replicator status debian --json | grep -q "\"mended_pages\":$1[,}]"; }
# correct: the hardware corrects an error. Always of the same page: several pages would be a reason of their own.
correct() { monitor mce 0 4 "$corrected" 0 0x12345000 0 >/dev/null; }
set_clock() { date -s "@$(($(date +%s) + $1))" >/dev/null; }
has_ended() { ! kill -0 "$pid_alpha" 2>/dev/null; }
keeps_it() { says "$1" '^same' in_guest "md5sum </tmp/kept | cmp -s - /tmp/sum && echo same"; }

# lose [MARKER]: the hardware loses the page of the guest on alpha that begins so; without a marker, one that is written to all the time.
lose() {
    address=$(peer page "$pid_alpha" "$memory_mib" "$@" 2>&1) || { echo "$address" >said && fail "a page to lose" said; return 1; }
    monitor mce 0 4 "$deferred" 0 "$address" 0 >/dev/null
}

echo "== the host's memory fails"
mount -t tracefs tracing "$tracing" && mount -t debugfs debug /sys/kernel/debug
in_node alpha mount -t tracefs tracing "$tracing"
# AMD's corrected and deferred errors wait for the poller.
echo 1 >/sys/devices/system/machinecheck/machinecheck0/check_interval
stand_ins
configure "" "s/memory_mib = [0-9]*/memory_mib = $memory_mib/"
boot || return
protect beta alpha || return
# Before it starts: with the default it is never woken.
mkdir -p "$tracing/instances/rasdaemon" && echo 0 >"$tracing/instances/rasdaemon/buffer_percent"
/sbin/rasdaemon -f >rasdaemon.out 2>&1 &
rasdaemon=$!
# The kernel's log says the same as its tracepoints, and must not do their work here.
printf '[cluster]\nnode = "alpha"\n[sources]\nkmsg = "/dev/null/none"\nnetlink = false\n[memory]\ncorrected_yellow = "2 / 10m"\n' \
    >alpha/etc/mce-monitor.toml
enter alpha kemari-mce-monitor run >monitor.log 2>&1 &
watcher=$!
becomes "the watcher answers, and says so to the cluster" 20 attribute green || { cat monitor.log; return; }

correct
becomes "a corrected error is seen" 10 heard 1
check "and moves nothing" attribute green
set_clock 86400
correct
becomes "a clock that jumps ahead drains nothing: the second one counts" 10 attribute yellow
check "an operator clears it" in_node alpha kemari-mce-monitor clear
becomes "which the cluster is told" 10 attribute green
set_clock -172800
correct
becomes "one that jumps back loses nothing" 10 heard 3
check "and fills nothing" attribute green
set_clock 86400

check "the guest keeps something" in_guest "i=0; while [ \$i -lt 300 ]; do echo 'this page must not be lost'; i=\$((i + 1)); done >/tmp/kept; md5sum </tmp/kept >/tmp/sum"
talk
# Committed by now.
sleep 2
lose "this page must not be lost" || return
becomes "a page that the guest does not write to is mended" 20 mended 1
becomes "the host is red, by the kernel's own tracepoints" 10 attribute red
says "it is told why" '^red: memory .*DEFERRED' cat "$attributes/kemari-mce-why"
keeps_it "the guest has what it kept"
hush "and nobody else could tell"
becomes "rasdaemon beside it was told of all" 10 rasdaemon_heard 4 || cat rasdaemon.out

check "an operator clears it" in_node alpha kemari-mce-monitor clear
becomes "which the cluster is told" 10 attribute green
talk
attempts=0
# At the moment of a checkpoint every page is clean.
until has_ended || [ "$attempts" -ge 20 ]; do
    lose || return
    attempts=$((attempts + 1))
    sleep 1.5
done
becomes "a page that it writes to ends its node" 2 has_ended || return
pid_alpha=
says "beta goes on" 'the guest goes on here' ask beta promote
keeps_it "the guest has what it kept, there"
hush "and nobody could tell, after $attempts attempts"
# Each by mce_record and memory_failure_event.
becomes "the watcher was told of each" 10 heard $((3 + 2 * (1 + attempts)))
becomes "and the host is red again" 10 attribute red

check "the watcher ends" kill "$watcher"
correct
becomes "rasdaemon goes on without it" 10 rasdaemon_heard $((5 + attempts)) || cat rasdaemon.out
kill "$rasdaemon"
