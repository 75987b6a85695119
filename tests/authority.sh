#!/usr/bin/env bash
# What a node asks its handler, and what it does with each answer: two real nodes, and a handler that answers as it is told.
#
# usage: tests/authority.sh REPLICATOR GUEST_ELF (as root, with /dev/kvm)
set -euo pipefail

if [ -z "${KEMARI_IN_NAMESPACE:-}" ]; then
    KEMARI_IN_NAMESPACE=1 exec unshare --net -- "$0" "$(realpath "$1")" "$(realpath "$2")"
fi
# shellcheck source=tests/two-nodes.bash
source "$(dirname "$0")/two-nodes.bash" "$1" "$2"

cat >"$dir/handler" <<'SH'
#!/bin/sh
# Keeps what it is asked in a file, and exits with what another file says.
dir=$(dirname "$0")
echo "$*" >>"$dir/asked"
answer=$(cat "$dir/answer.$1" 2>/dev/null || echo 0)
[ "$answer" = 0 ] || echo "the cluster says $answer to $1" >&2
exit "$answer"
SH
chmod +x "$dir/handler"
run_options=(--handler "$dir/handler")

answer() { echo "$2" >"$dir/answer.$1"; }
asked() { grep -E "^$1 " "$dir/asked" | tail -1; }
forget() { : >"$dir/asked"; }

# Tells how often a node has had its standby named.
named() { grep -c 'named: the record names the standby' "$dir/$1.log" || true; }
# is_named NODE BEFORE: waits until it has once more than BEFORE; PROTECTED is said before the handler has answered.
is_named() {
    local i
    for ((i = 0; i < 80; i++)); do
        [ "$(named "$1")" -le "$2" ] || break
        sleep 0.1
    done
    says "$1's standby is named" '^1$' echo "$(($(named "$1") > $2))"
}

"$replicator" create "$dir/alpha.toml" >/dev/null
start alpha
answer boot 1
says "a boot that is denied" 'not booted: the cluster says 1 to boot' ask alpha promote
says "is asked for as the first" 'boot --guest web --node alpha --first --from 1-[0-9a-f]{16} --to 2-' asked boot
answer boot 3
forget
says "a boot of which nothing is known is not done" 'not known: .*ended with' ask alpha promote
says "and asked for again, for the same generation" '^3 1$' \
    echo "$(wc -l <"$dir/asked") $(sed "s/.*--to //" "$dir/asked" | sort -u | wc -l)"
answer boot 0
forget
says "a boot that is granted" 'the guest boots here' ask alpha promote

answer protect 1
start beta
becomes "protected" alpha 'PROTECTED'
becomes "a standby that is not named is told" alpha 'authority +the standby is not named in the record: the cluster says 1'
answer protect 0
becomes "and asked for again" alpha '^guest'
is_named alpha 0
says "by its name" 'protect --guest web --node alpha --generation 2-[0-9a-f]+ --peer beta' asked protect

answer alone 1
dies beta
becomes "a lost standby" alpha 'authority +no consent to run unprotected: the cluster says 1 to alone'
says "output is held" 'gate +closed' ask alpha status
says "how it was lost" 'alone --guest web --node alpha --generation 2-[0-9a-f]+ --epoch [0-9]+ --peer beta --how lost' asked alone
answer alone 0
becomes "consent" alpha 'gate +open'

start beta
becomes "protected again" alpha PROTECTED
generation=$(ask alpha status | sed -n 's/^ *generation *//p')
says "a primary is not outdated" 'primary' ask alpha outdate --generation "$generation"
answer promote 1
dies alpha
becomes "the primary is lost" beta 'no primary is connected'
says "a promotion that is denied" 'not promoted: the cluster says 1 to promote' ask beta promote
says "and can be asked for again" '^0$' echo "$(ask beta status | grep -c 'not promotable')"
says "a standby promises" 'outdated in generation' ask beta outdate --generation "$generation"
answer promote 0
forget
says "and keeps the promise" 'not promoted: this node is outdated' ask beta promote
says "without asking" '^0$' echo "$(wc -l <"$dir/asked")"
start alpha
says "a node that ran the guest asks before it boots it again" 'the guest boots here' ask alpha promote
says "and not as the first" 'boot --guest web --node alpha --from 2-[0-9a-f]+ --to 3-' asked boot
becomes "who is brought in sync is not outdated any more" alpha PROTECTED
dies alpha
says "and can be promoted" 'the guest goes on here' ask beta promote
says "having asked" 'promote --guest web --node beta --peer alpha --from 3-[0-9a-f]+ --to 4-' asked promote

before=$(named beta)
start alpha
becomes "the other way round" beta PROTECTED
is_named beta "$before"
says "demoted by command" 'demoted' ask beta demote
says "the peer is promoted" 'the guest goes on here' ask alpha promote
says "with the word of the one before" 'promote .*--handed-over' asked promote
becomes "at once the other way round" alpha PROTECTED
says "a standby is not shut down" 'does not run here' ask beta shutdown
says "the guest is shut down" 'the guest is down' ask alpha shutdown
becomes "and the node stays" alpha 'alpha .*: standby'
dies beta
says "a generation that it does not know is refused" 'not 9-' ask beta outdate --generation 9-1
generation=$(ask alpha status | sed -n 's/^ *generation *//p')
says "with a dead replicator its record promises" 'no replicator runs here' ask beta outdate --generation "$generation"
[ "$failures" -eq 0 ]
