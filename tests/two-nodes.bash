# shellcheck shell=bash
# Two real nodes in a network namespace of their own, and what a script asks of them. To be sourced with REPLICATOR and GUEST_ELF
# as $1 and $2, in that namespace.

replicator=$1
guest=$2
dir=$(mktemp -d /var/tmp/kemari-behaviour-XXXXXX)
declare -A pid
failures=0
# More options of `run`, for both nodes.
run_options=()

clean_up() {
    [ "$failures" -eq 0 ] || tail -n 40 "$dir"/*.log
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
    "$replicator" run --config "$dir/$1.toml" "${run_options[@]}" 2>>"$dir/$1.log" &
    pid[$1]=$!
    local i
    for ((i = 0; i < 80; i++)); do
        if ask "$1" status >/dev/null 2>&1; then break; fi
        sleep 0.1
    done
}

# dies NODE: by SIGKILL, and is gone with all it held, so that the next one finds its port and its locks free.
dies() {
    kill -KILL "${pid[$1]}"
    wait "${pid[$1]}" 2>/dev/null || true
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
[console]
output = "socket:$dir/$1.console"
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
