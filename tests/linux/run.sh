#!/usr/bin/env bash
# Runs the scenarios in the emulated host.
#
# usage: tests/linux/run.sh REPLICATOR PEER [LIFE...]    (static programs; as root; all of the guest's lives if none is named)
set -euo pipefail
here=$(realpath "$(dirname "$0")")
replicator=$(realpath "$1")
peer=$(realpath "$2")
lives=("${@:3}")
# Outlives a checkout: it is made from Debian's packages.
cache=${XDG_CACHE_HOME:-/var/cache}/kemari-linux
limit_seconds=${LINUX_LIMIT:-900}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
"$here/host.sh" build "$cache/host" "$peer"
share=$(mktemp -d "$cache/share-XXXXXX")
trap 'rm -rf "$share"' EXIT
cp "$replicator" "$share/kemari-replicator"
cp "$peer" "$share/peer"
cp "$cache"/host/guest.{bzImage,elf,cpio.gz} "$here/scenarios.sh" "$share/"
[ ${#lives[@]} -eq 0 ] || echo "${lives[@]}" >"$share/lives"
# The configuration that the README shows.
awk '/^# \/etc\/kemari\/debian.toml/ {shown = 1} /^```/ {shown = 0} shown' "$here/../../README.md" >"$share/readme.toml"
grep -q '^\[guest\]' "$share/readme.toml" || { echo "run.sh: the README shows no configuration for Linux" >&2 && exit 1; }

said="$share/said"
timeout --foreground "$limit_seconds" "$here/host.sh" run "$cache/host" "$share" scenarios.sh 2 </dev/null 2>&1 |
    sed -u "s/\r//g; /TCG doesn't support requested feature/d" | tee "$said" || true
# The machine may have ended before the scenarios did: then there is no total.
grep -Eq '^== [1-9][0-9]* ok, 0 FAILED' "$said" && ! grep -q '^FAILED' "$said"
