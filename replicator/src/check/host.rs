//! The things to look at.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::Finding;
use crate::config::{Config, Problem};
use crate::link::Key;

type Looked = Result<(), (String, String, String)>;

/// Everything that a configuration names, as it is on this host.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        found("KVM", kvm()),
        found("kernel", kernel(&config.guest.kernel)),
        found("link key", key(&config.link.key_file)),
        found("listening address", listen(config)),
        found("state directory", directory("node.state_dir", &config.node.state_dir)),
    ];
    if let Some(initrd) = &config.guest.initrd {
        findings.push(found("initrd", readable("guest.initrd", initrd).map(drop)));
    }
    for (index, nic) in config.nics.iter().enumerate() {
        findings.push(found(&format!("tap {}", nic.tap), tap(index, &nic.tap)));
    }
    for (index, disk) in config.disks.iter().enumerate() {
        findings.push(found(&format!("disk {}", disk.path.display()), image(index, &disk.path, disk.read_only)));
    }
    findings.extend(aliases(config));
    findings
}

fn found(what: &str, looked: Looked) -> Finding {
    let problem = looked.err().map(|(key, value, remedy)| Problem { key, value, remedy });
    Finding { what: what.to_owned(), problem }
}

fn problem(key: &str, path: &Path, remedy: impl std::fmt::Display) -> (String, String, String) {
    (key.to_owned(), format!("{:?}", path.display().to_string()), remedy.to_string())
}

fn readable(key: &str, path: &Path) -> Result<File, (String, String, String)> {
    File::open(path).map_err(|error| problem(key, path, format!("{error}; it must exist and be readable")))
}

fn kvm() -> Looked {
    let path = Path::new("/dev/kvm");
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map(drop).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "run as root, or as a member of the group kvm",
            _ => "load kvm_intel or kvm_amd; in a virtual machine, allow nested virtualization",
        };
        problem("host", path, format!("{error}; {remedy}"))
    })
}

fn kernel(path: &Path) -> Looked {
    readable("guest.kernel", path)?;
    kemari_vmm::check_kernel(path).map_err(|error| {
        let remedy = match error {
            kemari_vmm::Error::Kernel { reason, .. } => reason,
            other => other.to_string(),
        };
        problem("guest.kernel", path, remedy)
    })
}

fn key(path: &Path) -> Looked {
    Key::load(path).map(drop).map_err(|error| problem("link.key_file", path, error))
}

fn listen(config: &Config) -> Looked {
    let address = config.link.listen;
    TcpListener::bind(address).map(drop).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there: this guest's replicator, or one to be given another port"
            }
            _ => "it must be an address of this host",
        };
        ("link.listen".to_owned(), address.to_string(), format!("{error}; {remedy}"))
    })
}

/// The nearest directory that exists decides whether the rest can be made.
fn directory(key: &str, path: &Path) -> Looked {
    let Some(existing) = path.ancestors().find(|ancestor| ancestor.exists()) else { return Ok(()) };
    let metadata = fs::metadata(existing).map_err(|error| problem(key, path, error))?;
    if !metadata.is_dir() {
        return Err(problem(key, path, format!("{} is not a directory", existing.display())));
    }
    if metadata.permissions().readonly() {
        return Err(problem(key, path, format!("{} cannot be written to", existing.display())));
    }
    Ok(())
}

fn tap(index: usize, name: &str) -> Looked {
    let complaint = |remedy: String| Err((format!("nic[{index}].tap"), format!("{name:?}"), remedy));
    // Of this network namespace; /sys may be mounted in another one.
    let interfaces = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    if !interfaces.lines().any(|line| line.split(':').next().is_some_and(|found| found.trim() == name)) {
        return complaint(format!(
            "no such interface; `ip tuntap add dev {name} mode tap vnet_hdr && ip link set {name} up`"
        ));
    }
    let class = Path::new("/sys/class/net").join(name);
    if !class.exists() {
        // A /sys of another namespace says nothing about it.
        return Ok(());
    }
    // IFF_TAP and IFF_PERSIST as in linux/if_tun.h.
    let Ok(flags) = fs::read_to_string(class.join("tun_flags")) else {
        return complaint("an interface, but no tap; name another one".to_owned());
    };
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or_default();
    if flags & 0x0002 == 0 {
        return complaint("a tun, but no tap; name another one".to_owned());
    }
    if flags & 0x0800 == 0 {
        return complaint(format!(
            "not persistent: it ends with its program; make it by `ip tuntap add dev {name} mode tap`"
        ));
    }
    Ok(())
}

fn image(index: usize, path: &Path, read_only: bool) -> Looked {
    let key = format!("disk[{index}].path");
    let mut options = OpenOptions::new();
    options.read(true).write(!read_only).custom_flags(libc::O_DIRECT);
    let file = options.open(path).map_err(|error| {
        let remedy = match error.raw_os_error() {
            Some(libc::EINVAL) => {
                "the filesystem has no direct I/O, without which the two nodes may see different content"
            }
            _ => "it must exist and be writable",
        };
        problem(&key, path, format!("{error}; {remedy}"))
    })?;
    let metadata = file.metadata().map_err(|error| problem(&key, path, error))?;
    if !metadata.file_type().is_block_device() && !metadata.is_file() {
        return Err(problem(&key, path, "neither a file nor a block device"));
    }
    if metadata.is_file() && metadata.len() % 512 != 0 {
        return Err(problem(&key, path, format!("{} bytes are no whole number of sectors (512)", metadata.len())));
    }
    Ok(())
}

/// Two names of one disk.
fn aliases(config: &Config) -> Vec<Finding> {
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        let device = metadata.file_type().is_block_device();
        Some(if device { (true, metadata.rdev(), 0) } else { (false, metadata.dev(), metadata.ino()) })
    };
    let mut findings = Vec::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let same = config.disks[..index]
            .iter()
            .find(|other| identity(&disk.path).is_some_and(|this| identity(&other.path) == Some(this)));
        if let Some(other) = same {
            let remedy = format!("the same image as {}; each disk needs one of its own", other.path.display());
            let key = format!("disk[{index}].path");
            findings.push(found(&format!("disk {}", disk.path.display()), Err(problem(&key, &disk.path, remedy))));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_a_distribution_is_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vmlinuz");
        assert!(kernel(&path).expect_err("missing").2.contains("must exist"));
        let mut image = vec![0; 0x1000];
        fs::write(&path, &image).expect("written");
        assert!(kernel(&path).expect_err("zeroes").2.contains("neither a bzImage"));
        image[0x202..0x206].copy_from_slice(b"HdrS");
        fs::write(&path, &image).expect("written");
        assert_eq!(kernel(&path), Ok(()));
        fs::write(&path, b"\x7fELF").expect("written");
        assert_eq!(kernel(&path), Ok(()));
    }
}
