#!/bin/sh
# The machine's own tests, on a stock KVM: where every field of a vCPU is a real one.
# shellcheck disable=SC2154,SC2317 # the rooms' variables; it is sourced
echo "== the machine"
for tests in machine every_field; do
    "vmm-$tests" --test-threads 1 --nocapture >"$tests.said" 2>&1
    if grep -q 'test result: ok. [1-9]' "$tests.said" && ! grep -q SKIPPED "$tests.said"; then
        ok "$tests: $(grep 'test result' "$tests.said")"
    else
        fail "$tests" "$tests.said"
    fi
done
