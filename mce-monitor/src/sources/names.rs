//! Names of block devices by their numbers, which is all that a tracepoint knows.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::record::{Heard, Record};

/// Numbers that are remembered.
const NUMBERS: usize = 1024;

pub(crate) struct Names {
    sysfs: PathBuf,
    known: HashMap<String, String>,
}

impl Names {
    pub(crate) fn new(sysfs: &Path) -> Names {
        Names { sysfs: sysfs.to_owned(), known: HashMap::new() }
    }

    /// Puts the device's name in place of its number, if it has one.
    pub(crate) fn name(&mut self, heard: &mut Heard) {
        let Record::Block(error) = &mut heard.record else { return };
        if !error.device.contains(':') {
            return;
        }
        if self.known.len() >= NUMBERS {
            self.known.clear();
        }
        let sysfs = &self.sysfs;
        let name = self.known.entry(error.device.clone()).or_insert_with_key(|number| {
            let uevent = fs::read_to_string(sysfs.join("dev/block").join(number).join("uevent")).unwrap_or_default();
            let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
            name.unwrap_or(number).to_owned()
        });
        error.device.clone_from(name);
    }
}
