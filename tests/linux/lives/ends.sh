#!/bin/sh
# shellcheck disable=SC2154,SC2317 # the rooms' variables; it is sourced
# end NAME WORDS CHECK...: a guest in its RAM disk that ends itself so; the check must come to succeed.
end() {
    ended=$1 words=$2
    shift 2
    configure "$words" 's/vcpus = 2/vcpus = 1/; s#root=[^ "]*##'
    in_node alpha kemari-replicator create debian >/dev/null
    start alpha || return
    ask alpha promote >/dev/null
    becomes "$ended" 120 "$@"
    kill_node alpha
}
says_of_its_end() { [ "$(grep -c "$1" alpha.log)" -eq 1 ] && has_booted 1; }

echo "== how it ends by itself"
end "poweroff turns it off" "end=poweroff" says_of_its_end 'shut down by itself'
# Which it does again and again.
end "reboot boots it again" "end=reboot" has_booted 2
end "so does a triple fault" "end=reboot reboot=triple" has_booted 2
end "so does a panic" "end=panic panic=1" has_booted 2
