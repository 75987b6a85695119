//! The guest's command line, as the VMM and QEMU write it.

use kemari_guest::cmdline::{Cmdline, MmioDevice};

#[test]
fn everything_is_understood() {
    let line = "console=ttyS0 ip=192.168.7.9/16 gw=192.168.0.1 flush=1 dirty_pages=64 dirty_rate=1000 quiet \
                virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=512@0xfeb00e00:12:3";
    let parsed = Cmdline::parse(line).unwrap();
    assert_eq!((parsed.ip, parsed.prefix), ([192, 168, 7, 9], 16));
    assert_eq!(parsed.gateway, Some([192, 168, 0, 1]));
    assert_eq!((parsed.flush, parsed.dirty_pages, parsed.dirty_rate), (true, 64, 1000));
    assert_eq!(parsed.devices[0], Some(MmioDevice { size: 4096, address: 0xd000_0000, irq: 5 }));
    assert_eq!(parsed.devices[1], Some(MmioDevice { size: 512, address: 0xfeb0_0e00, irq: 12 }));
    assert_eq!(parsed.devices[2], None);
}

#[test]
fn nothing_is_enough() {
    let parsed = Cmdline::parse("").unwrap();
    assert_eq!((parsed.ip, parsed.prefix, parsed.gateway, parsed.flush), ([10, 77, 0, 2], 24, None, false));
}

#[test]
fn nonsense_is_named() {
    for word in [
        "ip=10.0.0.1",
        "ip=10.0.0.1/33",
        "gw=nowhere",
        "flush=yes",
        "dirty_pages=-1",
        "virtio_mmio.device=4K",
        "virtio_mmio.device=99999999999999999M@1:1",
        "virtio_mmio.device=K@1:1",
    ] {
        assert_eq!(Cmdline::parse(&format!("a b=c {word} d")), Err(word));
    }
}
