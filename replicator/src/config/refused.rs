//! Devices that other hypervisors have and that no guest here may have, because what they do cannot be done again unseen.
//!
//! Without this they would be unknown keys like any other; whoever asks for one is told why there is none.

use toml::{Table, Value};

use super::Problem;

/// By whose hands output would leave, or memory be written to, behind the replicator's back.
const BEHIND: &str = "the host's kernel or another process would serve the guest's queues: frames would leave before a checkpoint covers \
                      them, and what is in flight is in no saved state; use nic and disk";
const HARDWARE: &str = "a real device has state that cannot be saved and writes to guest memory unseen, and on the other node it is another \
                        one; use nic and disk";
const FILES: &str = "the host's files would change before a checkpoint covers that, and what was done to them cannot be done again; use disk";
const MEMORY: &str =
    "others would see or change the guest's memory between checkpoints, or it would not be the same on both nodes";
const OUTSIDE: &str = "its state is kept by another program, which does not go back with the guest";
const CLONE: &str = "it tells a guest that it was copied; a guest that is failed over is still the only one";

/// What is refused, by the names that it goes by, and why.
const REFUSED: [(&str, &str); 22] = [
    ("vhost", BEHIND),
    ("vhost-net", BEHIND),
    ("vhost-user", BEHIND),
    ("vhost-scsi", BEHIND),
    ("vdpa", BEHIND),
    ("vsock", BEHIND),
    ("vfio", HARDWARE),
    ("hostdev", HARDWARE),
    ("passthrough", HARDWARE),
    ("pci", HARDWARE),
    ("sriov", HARDWARE),
    ("usb", HARDWARE),
    ("gpu", HARDWARE),
    ("virtiofs", FILES),
    ("filesystem", FILES),
    ("9p", FILES),
    ("ivshmem", MEMORY),
    ("pmem", MEMORY),
    ("nvdimm", MEMORY),
    ("balloon", MEMORY),
    ("tpm", OUTSIDE),
    ("vmgenid", CLONE),
];

/// Keys whose value names a kind of device.
const KINDS: [&str; 5] = ["backend", "device", "driver", "kind", "type"];

/// What a file asks for that is refused.
pub(super) fn requests(file: &Table) -> Vec<Problem> {
    let mut problems = Vec::new();
    look("", file, &mut problems);
    problems
}

fn look(above: &str, table: &Table, problems: &mut Vec<Problem>) {
    for (name, value) in table {
        let key = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        if let Some(reason) = refused(name) {
            problems.push(Problem::new(key, shown(value), reason));
            continue;
        }
        match value {
            Value::String(kind) if KINDS.contains(&name.as_str()) => {
                if let Some(reason) = refused(kind) {
                    problems.push(Problem::new(key, shown(value), reason));
                }
            }
            Value::Table(table) => look(&key, table, problems),
            Value::Array(array) => {
                for (index, table) in
                    array.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_table()?)))
                {
                    look(&format!("{key}[{index}]"), table, problems);
                }
            }
            _ => {}
        }
    }
}

fn refused(name: &str) -> Option<String> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let wanted = plain(name);
    let wanted = wanted.strip_prefix("virtio").filter(|rest| *rest != "fs").unwrap_or(&wanted);
    let (_, reason) = REFUSED.iter().find(|(name, _)| plain(name) == wanted)?;
    Some(format!("not allowed: {reason} (kemari-replicator.toml(5), DEVICES)"))
}

/// A value, if it is short.
fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) | Value::Array(_) => "...".to_owned(),
        value => value.to_string(),
    }
}
