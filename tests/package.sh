#!/usr/bin/env bash
# The Debian package, as the README says: built, installed by dpkg over a copy-on-write view of this host, used, and purged.
#
# usage: tests/package.sh (as root, with cargo-deb)
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -eq 0 ]; then
    package=$(replicator/debian/build.sh | tail -1)
    exec unshare --mount -- "tests/$(basename "$0")" "$(realpath "$package")"
fi
package=$1
failures=0
agents=/usr/lib/ocf/resource.d/kemari
examples=/usr/share/doc/kemari/pcs-examples

# What is installed is seen by this process alone, and gone with it.
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
cp "$package" /mnt/kemari.deb
for place in etc usr var; do
    mkdir -p "/mnt/upper/$place" "/mnt/work/$place"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=/mnt/upper/$place,workdir=/mnt/work/$place" "/$place"
done
mount -t tmpfs tmpfs /run

# must NAME COMMAND...: the command must succeed.
must() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "ok      $name"
    else
        echo "FAILED  $name: $said"
        failures=$((failures + 1))
    fi
}

# has FILE...: each must be there and hold something; a page of the manual may be compressed.
has() {
    local file
    for file in "$@"; do
        if ! [ -s "$file" ] && ! [ -s "$file.gz" ]; then
            echo "$file is missing"
            return 1
        fi
    done
}

as_packed() { diff <(dpkg --verify kemari) /dev/null; }
only_agents() { diff <(ls "$agents") <(printf 'guest\nhealth-mce\n'); }
lists_agents() { diff <(crm_resource --list-agents ocf:kemari | sort) <(printf 'guest\nhealth-mce\n'); }
same_examples() { diff -r "$examples" pcs-examples --exclude README.md; }
valid() { sh -c "cd /usr/share/resource-agents && $agents/$1 meta-data | xmllint --noout --valid -"; }
validate_all() { env OCF_RESKEY_config=/etc/kemari/web.toml OCF_RESOURCE_INSTANCE=web "$agents/guest" validate-all; }
completes() { bash -c "source /usr/share/bash-completion/completions/$1 && complete -p $1"; }
packed() { dpkg --contents /mnt/kemari.deb | awk '$1 ~ /^-/ {print substr($6, 2)}'; }
all_gone() { diff <(packed | xargs ls -d 2>/dev/null) /dev/null; }

must "it is installed" dpkg --install /mnt/kemari.deb
must "every file is as it was packed" as_packed
for program in kemari-replicator kemari-agent kemari-mce-monitor; do must "$program runs" "/usr/sbin/$program" --version; done
must "only agents are where Pacemaker looks for agents" only_agents
must "Pacemaker finds them" lists_agents
for agent in guest health-mce; do must "the metadata of $agent is valid" valid "$agent"; done
must "the manual" has /usr/share/man/man8/kemari-{replicator,mce-monitor}.8 /usr/share/man/man5/kemari-replicator.toml.5 \
    /usr/share/man/man7/ocf_kemari_{guest,health-mce}.7
must "README, licences, unit and directories" has /usr/share/doc/kemari/{README.md,copyright,LICENSE-MIT} \
    /usr/lib/systemd/system/kemari-mce-monitor.service /usr/lib/tmpfiles.d/kemari.conf
must "the examples are all there" same_examples
must "and can be run" test -x "$examples/two-nodes.sh"
for program in kemari-replicator kemari-mce-monitor; do must "bash completes $program" completes "$program"; done

mkdir -p /etc/kemari
cat >/etc/kemari/web.toml <<'TOML'
nic = [{ tap = "tap-web", mac = "52:54:00:12:34:56" }]
disk = [{ path = "/dev/vda", serial = "root" }]
link = { listen = "10.0.0.1:7040", peer = "10.0.0.2:7040", key_file = "/etc/kemari/web.key" }
[guest]
name = "web"
memory_mib = 128
kernel = "/srv/web/vmlinuz"
TOML
must "a key is made" kemari-replicator keygen /etc/kemari/web.key
must "the agent finds its programs" validate_all

mkdir -p /var/lib/kemari/web
echo record >/var/lib/kemari/web/record
must "it is purged" dpkg --purge kemari
must "with all its files" all_gone
must "and what guests have written down, and the operator, stays" has /var/lib/kemari/web/record /etc/kemari/web.toml
[ "$failures" -eq 0 ]
