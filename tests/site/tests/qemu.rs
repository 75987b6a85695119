//! The clients and the disk checker against a guest that is not replicated: under plain QEMU nothing may be found wrong.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kemari_site::{DiskImage, Load, LoadOptions, Network, Probe, Witness};

const TAP: &str = "tap-qemu";
const QEMU: &str = "qemu-system-x86_64";

/// QEMU, which ends with the test.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &Path) -> Qemu {
    let kernel = directory.join("guest.elf");
    std::fs::write(&kernel, kemari_guest_image::ELF).expect("the guest");
    let disk = format!("id=disk,format=raw,if=none,file={}", directory.join("disk").display());
    let mut qemu = Command::new(QEMU);
    qemu.args(["-machine", "microvm,acpi=off,x-option-roms=off,rtc=off", "-accel", "tcg", "-cpu", "max", "-m", "64"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "null"])
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .args(["-netdev", &format!("tap,id=net,ifname={TAP},script=no,downscript=no,vnet_hdr=on")])
        .args(["-device", "virtio-net-device,netdev=net,mac=52:54:00:4b:00:02"])
        .args(["-drive", &disk, "-device", "virtio-blk-device,drive=disk,serial=ledger"])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "ip=10.77.0.2/24 gw=10.77.0.1 flush=1 dirty_pages=64 dirty_rate=500"]);
    Qemu(qemu.stdin(Stdio::null()).spawn().expect("qemu starts"))
}

#[test]
fn nothing_is_found_wrong_with_a_guest_that_is_left_alone() {
    // SAFETY: geteuid takes nothing and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let qemu = Command::new(QEMU).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !(root && qemu) {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root, with {QEMU}");
        eprintln!("SKIPPED: needs root and {QEMU}");
        return;
    }
    let network = Network::enter().expect("a namespace");
    network.add_tap(TAP).expect("a tap");
    let directory = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let path = directory.path().join("disk");
    File::create(&path).and_then(|file| file.set_len(16 << 20)).expect("a disk");
    let qemu = start(directory.path());

    let witness = Arc::new(Witness::default());
    let probe = {
        let options = |client| LoadOptions {
            client,
            window: 4,
            pause: Duration::from_micros(500),
            patience: Duration::from_secs(20),
        };
        let loads =
            [1, 2, 3].map(|client| Load::start(options(client), Arc::clone(&witness)).expect("the guest answers"));
        let probe = Probe::start(Duration::from_millis(1), Arc::clone(&witness));
        std::thread::sleep(Duration::from_secs(2));
        for load in loads {
            assert!(load.progress().answers() > 50, "{} answers in 2 s", load.progress().answers());
            load.finish();
        }
        probe
    };
    assert!(probe.answers() > 20, "{} counters in 2 s", probe.answers());
    probe.finish();
    drop(qemu);

    let violations = witness.take_violations();
    assert!(violations.is_empty(), "{violations:?}");
    let recorded = DiskImage::new(&path).read(0).expect("readable");
    recorded.check(&witness.acknowledged(0)).expect("sound");
    assert_eq!(recorded.len(), witness.entries());
    eprintln!("{} entries", witness.entries());
}
