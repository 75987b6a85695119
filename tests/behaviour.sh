#!/usr/bin/env bash
# What an operator sees when something is wrong, and what SIGTERM does: two real nodes in a network namespace of their own.
#
# usage: tests/behaviour.sh REPLICATOR GUEST_ELF (as root, with /dev/kvm)
set -euo pipefail

if [ -z "${KEMARI_IN_NAMESPACE:-}" ]; then
    KEMARI_IN_NAMESPACE=1 exec unshare --net -- "$0" "$(realpath "$1")" "$(realpath "$2")"
fi
replicator=$1
guest=$2
dir=$(mktemp -d /var/tmp/kemari-behaviour-XXXXXX)
declare -A pid
failures=0

clean_up() {
    for process in "${pid[@]}"; do kill -KILL "$process" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap clean_up EXIT

# says NAME PATTERN COMMAND...: the command must say something that matches, whatever its exit status.
says() {
    local name=$1 pattern=$2 said
    shift 2
    said=$("$@" 2>&1) || true
    if grep -Eq "$pattern" <<<"$said"; then
        echo "ok      $name"
    else
        echo "FAILED  $name: wanted \"$pattern\", got:"
        echo "$said"
        failures=$((failures + 1))
    fi
}

# becomes NAME NODE PATTERN: the node's status must come to match within 8 s.
becomes() {
    local i
    for ((i = 0; i < 80; i++)); do
        if ask "$2" status 2>/dev/null | grep -Eq "$3"; then break; fi
        sleep 0.1
    done
    says "$1" "$3" ask "$2" status
}

ask() { "$replicator" "$2" --config "$dir/$1.toml" "${@:3}"; }

start() {
    "$replicator" run --config "$dir/$1.toml" 2>>"$dir/$1.log" &
    pid[$1]=$!
    local i
    for ((i = 0; i < 80; i++)); do
        if ask "$1" status >/dev/null 2>&1; then break; fi
        sleep 0.1
    done
}

# ends NODE: SIGTERM must end it with success.
ends() {
    kill -TERM "${pid[$1]}"
    local status=0
    wait "${pid[$1]}" || status=$?
    says "SIGTERM ends $1 in order" '^0$' echo "$status"
}

configure() { # NODE PORT PEER_PORT MEMORY_MIB KEY
    cat >"$dir/$1.toml" <<TOML
[guest]
name = "web"
memory_mib = $4
kernel = "$guest"
cmdline = "ip=10.77.0.2/24 gw=10.77.0.1 flush=1"
[[nic]]
tap = "tap-$1"
mac = "52:54:00:4b:00:02"
[[disk]]
path = "$dir/disk"
serial = "ledger"
[node]
name = "$1"
state_dir = "$dir/$1.state"
control = "$dir/$1.sock"
[link]
listen = "127.0.0.1:$2"
peer = "127.0.0.1:$3"
key_file = "$dir/$5"
heartbeat_ms = 50
peer_timeout_ms = 250
TOML
}

ip link set lo up
for node in alpha beta; do ip tuntap add dev "tap-$node" mode tap && ip link set "tap-$node" up; done
truncate -s 64M "$dir/disk"
"$replicator" keygen "$dir/key" >/dev/null
"$replicator" keygen "$dir/other" >/dev/null
configure alpha 7041 7042 64 key
configure beta 7042 7041 64 key

says "check finds everything" 'ok +tap tap-alpha' "$replicator" check "$dir/alpha.toml"
says "promotion before creation is refused" 'is the replicator running' ask alpha promote
says "create names the node" 'guest web created' "$replicator" create "$dir/alpha.toml"
says "create works once" 'exists' "$replicator" create "$dir/alpha.toml"
start alpha
says "the guest boots" 'the guest boots here' ask alpha promote

configure beta 7042 7041 128 key
start beta
becomes "another memory size is refused by name" alpha 'memory_mib: alpha has 64, beta has 128'
ends beta
configure beta 7042 7041 64 other
start beta
for ((i = 0; i < 200; i++)); do # after a refusal the primary takes its time
    if grep -q "have our key" "$dir/beta.log"; then break; fi
    sleep 0.1
done
says "another key is refused" 'does not have our key' cat "$dir/beta.log"
ends beta
configure beta 7042 7041 64 key
start beta
becomes "the right one protects" alpha PROTECTED

says "a standby is not promoted while the primary lives" 'lives, and answers as primary' ask beta promote
says "one process per state directory" 'another kemari-replicator' "$replicator" run --config "$dir/beta.toml"
says "the control socket is for root" '^600$' stat -c %a "$dir/alpha.sock"
head -c 100000 /dev/urandom 2>/dev/null | timeout 1 bash -c 'cat >/dev/tcp/127.0.0.1/7042' 2>/dev/null || true
says "garbage on the port harms nobody" PROTECTED ask alpha status

ends alpha
becomes "SIGTERM hands the guest over" beta 'beta .*: primary'
start alpha
becomes "the other way round" beta PROTECTED
ends alpha
becomes "a standby that leaves says so" beta 'trouble +stopped'
says "output is held until the operator consents" 'gate +closed' ask beta status
says "consent" 'runs unprotected' ask beta run-unprotected
start alpha
becomes "protected again" beta PROTECTED
kill -STOP "${pid[beta]}"
sleep 0.5
says "a hung primary is replaced" 'the guest goes on here' ask alpha promote
kill -CONT "${pid[beta]}"
becomes "and knows it when it wakes" beta 'beta .*: standby'
ends beta
says "consent of the other" 'runs unprotected' ask alpha run-unprotected
ends alpha
says "the guest was shut down" 'the guest has shut down' cat "$dir/alpha.log"
chmod 644 "$dir/key"
says "a key that others can read is refused" 'chmod 600' "$replicator" run --config "$dir/alpha.toml"

[ "$failures" -eq 0 ]
