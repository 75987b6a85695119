#!/bin/sh
# The guest's first process, twice: in the RAM disk it loads modules and goes to the root it is told of, if any; there it is the
# whole system.
export PATH=/bin
word() { sed -n "s/.*\b$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

if [ "$0" = /init ]; then
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devtmpfs dev /dev
    # As a distribution does it: each device names its driver. Those on a bus that a driver makes come in the second round.
    for _ in 1 2; do
        find /sys/devices -name modalias -exec cat {} + | sort -u | while read -r alias; do modprobe -q "$alias"; done
    done
    modprobe evdev
    if [ -n "$(word root)" ]; then
        mount -t ext4 "$(word root)" /mnt
        for tree in proc sys dev; do mount -o move "/$tree" "/mnt/$tree"; done
        exec switch_root /mnt /bin/init
    fi
fi

mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
ip link set lo up
for number in 0 1; do
    [ -e "/sys/class/net/eth$number" ] || continue
    ip address add "10.9.$number.2/24" dev "eth$number"
    ip link set "eth$number" up
done

echo "$(uname -sr) has booted" >/dev/console
# What the guest is asked to do before anything else, to see what becomes of it.
case $(word end) in
poweroff) poweroff -f ;;
reboot) reboot -f ;;
panic) echo c >/proc/sysrq-trigger ;;
esac

# The power button.
printf '#!/bin/sh\nsync\nmount -o remount,ro /\npoweroff -f\n' >/etc/acpi/PWRF/00000080
chmod +x /etc/acpi/PWRF/00000080
acpid -d >/dev/null 2>&1 &

# A shell at the console.
while true; do setsid -c sh <>/dev/ttyS0 >&0 2>&1; done &

# What a distribution starts by a unit. The RAM disk alone does not have it.
if [ -x /bin/kemari-failover ]; then
    IP=/sbin/ip kemari-failover eth0 sh -c 'echo again >>/run/failovers' >/dev/kmsg 2>&1 &
fi

while true; do
    peer serve
    sleep 1
done
