//! Disks that this host and its guests cannot do without: what the root file system and the guests' disks lie on, down to the
//! hardware.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// Device mapper on md on partitions on multipath, and some more.
const LAYERS_MAX: usize = 8;

/// Names of the disks on which `paths` lie, and of all that those lie on: partitions, volumes, their disks, and what they hang on.
pub(crate) fn disks_of(sysfs: &Path, paths: &[PathBuf]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for device in paths.iter().filter_map(|path| device_of(path)) {
        add(sysfs, &sysfs.join("dev/block").join(device), &mut names, LAYERS_MAX);
    }
    names
}

/// The number of the device that a path is, or lies on.
fn device_of(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let number = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    if major(number) != 0 {
        return Some(format!("{}:{}", major(number), minor(number)));
    }
    // A file system without a device of its own, such as btrfs, names what it was mounted from.
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let source = source_of(&mounts, &format!("{}:{}", major(number), minor(number)))?;
    let rdev = fs::metadata(source).ok().filter(|metadata| metadata.file_type().is_block_device())?.rdev();
    Some(format!("{}:{}", major(rdev), minor(rdev)))
}

/// `36 35 0:31 / /mnt rw,noatime shared:1 - btrfs /dev/sda2 rw`: what the file system of that number was mounted from.
fn source_of<'a>(mounts: &'a str, number: &str) -> Option<&'a str> {
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(number))?;
    line.split_once(" - ")?.1.split(' ').nth(1)
}

/// Adds a device, by its directory in sysfs.
fn add(sysfs: &Path, device: &Path, names: &mut BTreeSet<String>, layers: usize) {
    let Ok(device) = fs::canonicalize(device) else { return };
    let Some(layers) = layers.checked_sub(1) else { return };
    let hangs_on = |name: &str| {
        let is_numbered = |kind| name.strip_prefix(kind).is_some_and(|number| number.parse::<u32>().is_ok());
        is_numbered("ata") || is_numbered("nvme")
    };
    let components = device.components().map(|component| component.as_os_str().to_string_lossy().into_owned());
    names.extend(components.filter(|name| hangs_on(name)));
    names.extend(device.file_name().map(|name| name.to_string_lossy().into_owned()));
    if device.join("partition").exists()
        && let Some(disk) = device.parent()
    {
        add(sysfs, disk, names, layers);
    }
    let below = fs::read_dir(device.join("slaves")).into_iter().flatten().filter_map(Result::ok);
    below.for_each(|entry| add(sysfs, &entry.path(), names, layers));
    let file = fs::read_to_string(device.join("loop/backing_file"));
    if let Some(number) = file.ok().and_then(|file| device_of(Path::new(file.trim_end()))) {
        add(sysfs, &sysfs.join("dev/block").join(number), names, layers);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_volume_lies_on_partitions_and_their_disks() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let sysfs = directory.path();
        let sda = sysfs.join("devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda");
        let nvme = sysfs.join("devices/pci0000:00/0000:01:00.0/nvme/nvme1/nvme1n1");
        let volume = sysfs.join("devices/virtual/block/dm-0");
        for path in [sda.join("sda2"), nvme.clone(), volume.join("slaves"), sysfs.join("dev/block")] {
            fs::create_dir_all(path).expect("writable");
        }
        fs::write(sda.join("sda2/partition"), "2\n").expect("writable");
        symlink(sda.join("sda2"), volume.join("slaves/sda2")).expect("writable");
        symlink(&nvme, volume.join("slaves/nvme1n1")).expect("writable");
        // A loop in what lies on what must end.
        fs::create_dir_all(nvme.join("slaves")).expect("writable");
        symlink(&volume, nvme.join("slaves/dm-0")).expect("writable");
        let file = directory.path().join("disk.img");
        fs::write(&file, "").expect("writable");
        let device = fs::metadata(&file).expect("there").dev();
        let number =
            if major(device) == 0 { device_of(&file) } else { Some(format!("{}:{}", major(device), minor(device))) };
        let Some(number) = number else { return eprintln!("SKIPPED: temporary files lie on no device here") };
        symlink(&volume, sysfs.join("dev/block").join(number)).expect("writable");
        let expected = ["ata3", "dm-0", "nvme1", "nvme1n1", "sda", "sda2"].map(str::to_owned);
        assert_eq!(disks_of(sysfs, &[file, "/nonexistent".into()]), expected.into());
    }

    #[test]
    fn a_file_system_of_no_device_of_its_own_names_its_source() {
        let mounts = "22 1 0:20 / /proc rw - proc proc rw\n36 35 0:31 /@ / rw,noatime shared:1 - btrfs /dev/sda2 rw\n";
        assert_eq!(source_of(mounts, "0:31"), Some("/dev/sda2"));
        assert_eq!(source_of(mounts, "0:32"), None);
    }
}
