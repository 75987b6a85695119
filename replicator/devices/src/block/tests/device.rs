//! The disk on real block devices: loop devices. These need root.

use std::process::Command;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

use super::rig::{Path, Rig, directory, image, sector};
use super::*;

/// A loop device, as long as it is there.
struct Loop(PathBuf);

impl Loop {
    fn of(image: &Path, block_bytes: u32) -> Option<Loop> {
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &block_bytes.to_string()])
            .arg(image)
            .output()
            .expect("losetup");
        if !made.status.success() {
            let error = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(std::env::var_os("CI").is_none(), "no loop device: {error}");
            eprintln!("SKIPPED: no loop device: {error}");
            return None;
        }
        Some(Loop(String::from_utf8(made.stdout).expect("a path").trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let gone = Command::new("losetup").arg("--detach").arg(&self.0).status();
        assert!(gone.is_ok_and(|status| status.success()), "{} stays behind", self.0.display());
    }
}

#[test]
fn a_block_device_is_written_and_read_in_its_own_blocks() {
    for block_bytes in [512, 4096] {
        let room = directory();
        let path = image(&room);
        let Some(device) = Loop::of(&path, block_bytes) else { return };
        let mut rig = Rig::running(&device.0);
        assert_eq!((rig.disk.bytes(), rig.disk.block_bytes()), (256 * 512, block_bytes));
        let mut config = [0; 24];
        rig.disk.bus().read(0x100, &mut config);
        assert_eq!(config[20..], block_bytes.to_le_bytes(), "the driver is told");
        rig.offer(0, VIRTIO_BLK_T_OUT, 8, &[0xaa; 4096]);
        rig.offer(1, VIRTIO_BLK_T_IN, 8, &[0; 4096]);
        rig.offer(2, VIRTIO_BLK_T_OUT, 17, &[0xbb; 512]);
        rig.flush(3);
        rig.settle();
        let part = if block_bytes == 512 { OK } else { IOERR };
        assert_eq!([0, 1, 2, 3].map(|slot| rig.status_of(slot)), [OK, OK, part, OK], "blocks of {block_bytes}");
        assert_eq!(rig.data_of(1, 4096), [0xaa; 4096]);
        assert_eq!(rig.events, []);

        let alias = room.path().join("alias");
        std::os::unix::fs::symlink(&device.0, &alias).expect("linked");
        let options = |path: &Path| DiskOptions {
            path: path.to_owned(),
            serial: "s".to_owned(),
            read_only: false,
            on_error: OnDiskError::Report,
            timeout_s: None,
        };
        assert_eq!(Disk::check(&options(&alias)).expect("a disk"), rig.disk.image_id());
        assert_ne!(Disk::check(&options(&path)).expect("a disk"), rig.disk.image_id());
        drop(rig);
        drop(device);
        let written = if part == OK { 0xbb } else { 17 };
        assert_eq!([7, 8, 15, 16, 17].map(|number| sector(&path, number)), [7, 0xaa, 0xaa, 16, written]);
    }
}
