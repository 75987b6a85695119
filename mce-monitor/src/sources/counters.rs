//! Counters in sysfs, to find what no record has told: looked at slowly, and compared with what was told.
//!
//! A counter may be ahead of its records for a moment. So what is missing must be missing at two looks, unless nothing
//! tells of it at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::moment::Moment;
use crate::record::{AerError, BlockError, Channel, Heard, MemoryError, Record, Severity};

/// Which counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Memory { controller: u32, corrected: bool },
    Pci { device: String, severity: &'static str },
    Block { device: String },
}

/// What is known of a counter.
#[derive(Clone, Debug, Default)]
struct Counter {
    base: u64,
    /// What records have told since, by the way they came on: two may tell of the same.
    told: BTreeMap<Channel, u64>,
    missing: u64,
}

/// The counters.
pub(crate) struct Counters {
    sysfs: PathBuf,
    known: BTreeMap<Key, Counter>,
    begun: Moment,
    /// Whether disks have a tracepoint: what they count beside it is retries, too.
    block_is_told: bool,
}

impl Counters {
    /// From here on. `events` are the tracepoints that are on.
    pub(crate) fn new(sysfs: &Path, events: &[&str], now: Moment) -> Counters {
        let block_is_told = events.contains(&"block_rq_error");
        let mut counters = Counters { sysfs: sysfs.to_owned(), known: BTreeMap::new(), begun: now, block_is_told };
        for (key, value) in counters.read() {
            counters.known.insert(key, Counter { base: value, ..Counter::default() });
        }
        counters
    }

    /// A record was heard that some counter has counted.
    pub(crate) fn heard(&mut self, heard: &Heard) {
        if heard.at < self.begun || heard.channel == Channel::Counter {
            return;
        }
        let Some((key, count)) = key_of(&heard.record) else { return };
        if let Some(counter) = self.known.get_mut(&key) {
            *counter.told.entry(heard.channel).or_default() += count;
        }
    }

    /// Looks. Returns what no record has told.
    pub(crate) fn reconcile(&mut self, now: Moment) -> Vec<Heard> {
        let mut found = Vec::new();
        for (key, value) in self.read() {
            let Some(counter) = self.known.get_mut(&key) else {
                // It was not there before, and neither were its errors.
                self.known.insert(key, Counter::default());
                continue;
            };
            if value < counter.base {
                // The driver was loaded anew.
                *counter = Counter { base: value, ..Counter::default() };
                continue;
            }
            let told = counter.told.values().max().copied().unwrap_or(0);
            let missing = (value - counter.base).saturating_sub(told);
            let sure = missing.min(counter.missing);
            if sure > 0 {
                counter.base += sure;
                found.extend(record_of(&key, sure).map(|record| Heard { at: now, channel: Channel::Counter, record }));
            }
            counter.missing = missing - sure;
        }
        found
    }

    fn read(&self) -> Vec<(Key, u64)> {
        let mut counters = self.memory();
        counters.extend(self.pci());
        if !self.block_is_told {
            counters.extend(self.block());
        }
        counters
    }

    fn memory(&self) -> Vec<(Key, u64)> {
        let mut counters = Vec::new();
        for (name, path) in entries(&self.sysfs.join("devices/system/edac/mc")) {
            let Some(controller) = name.strip_prefix("mc").and_then(|number| number.parse().ok()) else { continue };
            for (file, corrected) in [("ce_count", true), ("ue_count", false)] {
                counters.extend(number(&path.join(file)).map(|value| (Key::Memory { controller, corrected }, value)));
            }
        }
        counters
    }

    fn pci(&self) -> Vec<(Key, u64)> {
        let mut counters = Vec::new();
        for (device, path) in entries(&self.sysfs.join("bus/pci/devices")) {
            for severity in ["correctable", "nonfatal", "fatal"] {
                let text = fs::read_to_string(path.join(format!("aer_dev_{severity}"))).unwrap_or_default();
                let total =
                    text.lines().find_map(|line| line.strip_prefix("TOTAL_ERR_")?.split(' ').nth(1)?.parse().ok());
                counters.extend(total.map(|total| (Key::Pci { device: device.clone(), severity }, total)));
            }
        }
        counters
    }

    fn block(&self) -> Vec<(Key, u64)> {
        let disks = entries(&self.sysfs.join("block")).into_iter();
        let count = |path: &Path| {
            let text = fs::read_to_string(path.join("device/ioerr_cnt")).ok()?;
            u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
        };
        disks.filter_map(|(device, path)| Some((Key::Block { device }, count(&path)?))).collect()
    }
}

fn key_of(record: &Record) -> Option<(Key, u64)> {
    match record {
        Record::Memory(error) => {
            let corrected = error.severity == Severity::Corrected;
            Some((Key::Memory { controller: error.controller, corrected }, error.count))
        }
        Record::Aer(error) => {
            let severity = match error.severity {
                Severity::Corrected => "correctable",
                Severity::Fatal => "fatal",
                _ => "nonfatal",
            };
            // The device counts each of the errors that a record may have.
            let count = u64::from(error.status.count_ones().max(1));
            Some((Key::Pci { device: error.device.clone(), severity }, count))
        }
        Record::Block(error) => Some((Key::Block { device: error.device.clone() }, 1)),
        _ => None,
    }
}

fn record_of(key: &Key, count: u64) -> Option<Record> {
    Some(match key {
        Key::Memory { controller, corrected } => Record::Memory(MemoryError {
            severity: if *corrected { Severity::Corrected } else { Severity::Uncorrected },
            controller: *controller,
            label: String::new(),
            message: "counted, and not told".to_owned(),
            count,
            address: None,
        }),
        Key::Pci { device, severity } => Record::Aer(AerError {
            device: device.clone(),
            severity: match *severity {
                "correctable" => Severity::Corrected,
                "fatal" => Severity::Fatal,
                _ => Severity::Uncorrected,
            },
            status: 0,
            count,
        }),
        Key::Block { device } => {
            let errno = rustix::io::Errno::IO.raw_os_error();
            Record::Block(BlockError { device: device.clone(), sector: 0, errno, count })
        }
    })
}

fn entries(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
