#!/usr/bin/env bash
# Runs the lives of a Linux guest in the emulated host.
#
# usage: tests/linux/run.sh PROGRAMS [LIFE...]    (a directory of static programs; as root; all of lives/*.sh if none is named)
set -euo pipefail
here=$(realpath "$(dirname "$0")")
programs=$(realpath "$1")
lives=("${@:2}")
# Outlives a checkout: it is made from Debian's packages.
cache=${XDG_CACHE_HOME:-/var/cache}/kemari-linux
limit_seconds=${LINUX_LIMIT:-1500}

if [ ${#lives[@]} -eq 0 ]; then
    for life in "$here"/lives/*.sh; do lives+=("$(basename "$life" .sh)"); done
fi
for life in "${lives[@]}"; do
    [ -e "$here/lives/$life.sh" ] || { echo "run.sh: no life \"$life\" in tests/linux/lives" >&2 && exit 2; }
done
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
"$here/host.sh" build "$cache/host" "$programs/kemari-linux-peer"
share=$(mktemp -d "$cache/share-XXXXXX")
trap 'rm -rf "$share"' EXIT
mkdir "$share/programs"
cp "$programs/kemari-replicator" "$programs/kemari-mce-monitor" "$share/programs/"
cp "$programs/kemari-linux-peer" "$share/programs/peer"
for tests in "$programs"/vmm-*; do
    # Only the life `machine` needs them.
    [ ! -e "$tests" ] || cp "$tests" "$share/programs/"
done
cp "$cache"/host/guest.{bzImage,elf,cpio.gz} "$share/"
cp -r "$here"/inside "$here"/lives "$share/"
echo "${lives[@]}" >"$share/lives-to-run"
# The configuration that the README shows.
awk '/^# \/etc\/kemari\/debian.toml/ {shown = 1} /^```/ {shown = 0} shown' "$here/../../README.md" >"$share/readme.toml"
grep -q '^\[guest\]' "$share/readme.toml" || { echo "run.sh: the README shows no configuration for Linux" >&2 && exit 1; }
# And the commands.
awk '/^ip tuntap add dev tap-debian/ {shown = 1} /^```/ {shown = 0} shown' "$here/../../README.md" >"$share/readme.commands"
grep -q ' shutdown ' "$share/readme.commands" || { echo "run.sh: the README shows no commands for Linux" >&2 && exit 1; }

said="$share/said"
timeout --foreground "$limit_seconds" "$here/host.sh" run "$cache/host" "$share" inside/scenarios.sh 2 </dev/null 2>&1 |
    sed -u "s/\r//g; /TCG doesn't support requested feature/d" | tee "$said" || true
# The machine may have ended before the scenarios did: then there is no total.
grep -Eq '^== [1-9][0-9]* ok, 0 FAILED' "$said" && ! grep -q '^FAILED' "$said"
