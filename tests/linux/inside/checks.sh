#!/bin/sh
# How a life says what it has seen.
passed=0
failed=0

now() { cut -d. -f1 /proc/uptime; }

ok() {
    passed=$((passed + 1))
    echo "ok      $1 [$(now) s]"
}

# fail NAME FILE...: and what the files say.
fail() {
    failed=$((failed + 1))
    echo "FAILED  $1"
    shift
    for file in "$@"; do
        echo "--- $file"
        tail -n 25 "$file"
    done
    return 1
}

# check NAME COMMAND...: the command must succeed.
check() {
    name=$1
    shift
    if "$@" >/tmp/said 2>&1; then ok "$name"; else fail "$name" /tmp/said /tmp/console /tmp/alpha.log; fi
}

# says NAME PATTERN COMMAND...: what it says must match.
says() {
    name=$1 pattern=$2
    shift 2
    "$@" >/tmp/said 2>&1
    if grep -Eq "$pattern" /tmp/said; then ok "$name"; else fail "$name (wanted: $pattern)" /tmp/said; fi
}

# becomes NAME SECONDS COMMAND...: the command must come to succeed.
becomes() {
    name=$1 limit=$(($(now) + $2))
    shift 2
    until "$@" >/tmp/said 2>&1; do
        if [ "$(now)" -ge "$limit" ]; then
            fail "$name" /tmp/said /tmp/alpha.log /tmp/beta.log /tmp/console
            return 1
        fi
        sleep 0.2
    done
    ok "$name"
}
