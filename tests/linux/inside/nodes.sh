#!/bin/sh
# Two nodes in namespaces of their own, and what one does with them.
# shellcheck disable=SC2034,SC2154 # the other rooms' variables
nodes="alpha beta"

# What a node or the guest is asked.
in_node() { (enter "$@"); }
enter() {
    holder=$(cat "/tmp/$1/holder")
    shift
    exec nsenter -t "$holder" -m -n -u "$@"
}
ask() {
    asked=$1 request=$2
    shift 2
    in_node "$asked" kemari-replicator "$request" debian "$@"
}
status_of() { ask "$1" status | grep -q "$2"; }

# Two machines at a switch, with the guest's clients at it, too. A node's own files are its own.
network() {
    mkdir -p /srv/debian
    cp /host/guest.bzImage /srv/debian/vmlinuz
    cp /host/guest.cpio.gz /srv/debian/initrd.img
    /sbin/ip link add switch type bridge && /sbin/ip link set switch up
    /sbin/ip address add 10.9.0.1/24 dev switch
    for node in $nodes; do
        mkdir -p "$node/etc" "$node/lib" "$node/run"
        unshare -m -n -u sleep 100000 &
        echo "$!" >"$node/holder"
        sleep 0.3
        in_node "$node" hostname "$node"
        in_node "$node" mount -o bind "/tmp/$node/etc" /etc/kemari
        in_node "$node" mount -o bind "/tmp/$node/lib" /var/lib/kemari
        in_node "$node" mount -o bind "/tmp/$node/run" /run
        /sbin/ip link add "to-$node" type veth peer name uplink netns "$!"
        /sbin/ip link set "to-$node" up master switch
        in_node "$node" /sbin/ip link set lo up
        in_node "$node" /sbin/ip link add switch type bridge
        in_node "$node" /sbin/ip link set switch up
        in_node "$node" /sbin/ip link set uplink up master switch
        in_node "$node" /sbin/ip tuntap add dev tap-debian mode tap
        in_node "$node" /sbin/ip link set tap-debian up master switch
        in_node "$node" /sbin/ip tuntap add dev tap-more mode tap
        in_node "$node" /sbin/ip link set tap-more up
    done
    in_node alpha /sbin/ip address add 10.0.0.1/24 dev switch
    in_node beta /sbin/ip address add 10.0.0.2/24 dev switch
    in_node alpha kemari-replicator keygen /etc/kemari/debian.key
    cp alpha/etc/debian.key beta/etc/
}

# configure WORDS [SED]: the README's configuration for both nodes, with more words on the guest's command line and other changes.
# `noxsave`: QEMU's emulation of SVM does not tell KVM when a guest sets XCR0 (XSETBV is not intercepted), and SSE registers
# would be lost at a change of tasks. Real hardware does.
configure() {
    sed "s/^cmdline = \"\(.*\)\"/cmdline = \"\1 noxsave $1\"/; ${2:-}" /host/readme.toml >alpha/etc/debian.toml
    printf '[console]\noutput = "file:/tmp/console"\n' >>alpha/etc/debian.toml
    sed 's/10\.0\.0\.1:/swap:/; s/10\.0\.0\.2:/10.0.0.1:/; s/swap:/10.0.0.2:/' alpha/etc/debian.toml >beta/etc/debian.toml
    rm -rf alpha/lib/* beta/lib/*
    for log in console alpha.log beta.log; do : >"$log"; done
}

# start NODE [COMMAND]
start() {
    # shellcheck disable=SC2086 # a list of words
    enter "$1" ${2:-kemari-replicator run debian} 2>>"$1.log" &
    eval "pid_$1=$!"
    becomes "$1 answers" 60 ask "$1" status
}

kill_node() {
    eval "pid=\${pid_$1:-}"
    [ -n "$pid" ] || return
    { kill -KILL "$pid" && wait "$pid"; } 2>/dev/null
    eval "pid_$1="
}

# boot: alpha boots the guest.
boot() {
    check "the guest is created" in_node alpha kemari-replicator create debian || return
    start alpha || return
    says "it boots" 'the guest boots here' ask alpha promote || return
    becomes "it answers" 180 guest_answers
}

# protect BY ON: a replicator starts on BY, and comes to protect the guest that runs on ON.
protect() {
    start "$1" || return
    becomes "$1 protects it" 240 status_of "$2" PROTECTED
}

# take_over FROM TO OUTAGE: FROM is killed; after an outage of so many seconds TO goes on.
take_over() {
    kill_node "$1"
    sleep "$3"
    says "$2 goes on" 'the guest goes on here' ask "$2" promote
}

# as_readme LINE: does what the README says, where it says so, but for what is explained here.
as_readme() {
    command=$(echo "$1" | sed 's/ *#.*//')
    case $1 in
    *'# on both'*) on=$nodes ;;
    *'# on the first'*) on=alpha ;;
    *) fail "the README says on which node: $1" || return ;;
    esac
    for node in $on; do
        case $command in
        # It does not end; a person has another terminal.
        *' run '*) start "$node" "$command" || return ;;
        # busybox, whose `ip` makes no taps, prefers its own.
        *) check "$node: $command" in_node "$node" sh -c "$(echo "$command" | sed 's/\<ip /\/sbin\/ip /g')" || return ;;
        esac
    done
    # "copy it to the other"
    case $command in *' keygen '*) cp alpha/etc/debian.key beta/etc/ ;; esac
}
