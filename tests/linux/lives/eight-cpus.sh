#!/bin/sh
# As many CPUs as there can be.
# shellcheck disable=SC2016,SC2154,SC2317 # the guest's shell expands; the rooms' variables; it is sourced
echo "== 8 vCPUs"
configure "" 's/vcpus = 2/vcpus = 8/'
boot || return
says "8 CPUs in one package" '^8 1$' in_guest \
    'echo $(nproc) $(cat /sys/devices/system/cpu/cpu*/topology/physical_package_id | sort -u | wc -l)'
shut_down alpha
