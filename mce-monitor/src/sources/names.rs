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
        if let Some(name) = self.known.get(&error.device) {
            error.device.clone_from(name);
            return;
        }
        // One that has no name yet may get one: it is asked again.
        let uevent = fs::read_to_string(self.sysfs.join("dev/block").join(&error.device).join("uevent"));
        let Some(name) =
            uevent.as_deref().ok().and_then(|text| text.lines().find_map(|line| line.strip_prefix("DEVNAME=")))
        else {
            return;
        };
        self.known.insert(std::mem::replace(&mut error.device, name.to_owned()), name.to_owned());
    }
}
