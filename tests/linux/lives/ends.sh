#!/bin/sh
# shellcheck disable=SC2154,SC2317 # the rooms' variables; it is sourced
# end NAME WORDS PATTERN COUNT: a guest in its RAM disk that ends itself so; the log must say so, so many times.
end() {
    configure "$2" 's/vcpus = 2/vcpus = 1/; s#root=[^ "]*##'
    : >alpha.log
    in_node alpha kemari-replicator create /etc/kemari/debian.toml >/dev/null
    start alpha || return
    ask alpha promote >/dev/null
    becomes "$1" 40 sh -c "[ \$(grep -Ec '$3' /tmp/alpha.log) -ge $4 ]"
    kill_node alpha
}

echo "== how it ends by itself"
end "poweroff turns it off" "end=poweroff" 'shut down by itself' 1
end "reboot boots it again" "end=reboot" 'resets itself' 2
end "so does a triple fault" "end=reboot reboot=triple" 'resets itself' 2
end "so does a panic" "end=panic panic=1" 'resets itself' 2
