//! Counters in sysfs, to find what no record has told: looked at slowly, and compared with what was told.
//!
//! A counter may be ahead of its records for a moment. So what is missing must be missing at two looks, unless nothing
//! tells of it at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use crate::moment::Moment;
use crate::record::{AerError, BlockError, Channel, Heard, MemoryError, Record, Severity, Throttle};

/// Which counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Of a DIMM by its label; without one, what is counted of no DIMM.
    Memory {
        controller: u32,
        label: Option<String>,
        corrected: bool,
    },
    Pci {
        device: String,
        severity: &'static str,
    },
    Block {
        device: String,
    },
    /// In milliseconds that it was throttled.
    Throttled {
        cpu: u32,
        package: bool,
    },
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Memory { controller, label, corrected } => {
                let kind = if *corrected { "ce" } else { "ue" };
                write!(f, "memory mc{controller} {kind} {}", label.as_deref().unwrap_or_default())
            }
            Key::Pci { device, severity } => write!(f, "pci {device} {severity}"),
            Key::Block { device } => write!(f, "block {device}"),
            Key::Throttled { cpu, package } => write!(f, "throttled cpu{cpu} {}", level(*package)),
        }
    }
}

fn level(package: bool) -> &'static str {
    if package { "package" } else { "core" }
}

/// What of the counters is accounted for, by their names: to go on from there after a restart.
pub(crate) type Accounted = BTreeMap<String, u64>;

/// What is known of a counter.
#[derive(Clone, Debug, Default)]
struct Counter {
    base: u64,
    /// What records have told since, by the way they came on: two may tell of the same.
    told: BTreeMap<Channel, u64>,
    missing: u64,
}

impl Counter {
    /// What was told on the way that told most.
    fn told(&self) -> u64 {
        self.told.values().max().copied().unwrap_or(0)
    }
}

/// The counters.
pub(crate) struct Counters {
    sysfs: PathBuf,
    known: BTreeMap<Key, Counter>,
    begun: Moment,
    /// Whether disks have a tracepoint: what they count beside it is retries, too.
    block_is_told: bool,
    /// Since when what is throttled now is so.
    throttled: BTreeMap<Key, Moment>,
}

impl Counters {
    /// From `begun` on, when so much was accounted for: now, if nothing is known of before. `events` are the tracepoints that are on.
    pub(crate) fn new(sysfs: &Path, events: &[&str], begun: Moment, accounted: &Accounted) -> Counters {
        let block_is_told = events.contains(&"block_rq_error");
        let mut counters = Counters {
            sysfs: sysfs.to_owned(),
            known: BTreeMap::new(),
            begun,
            block_is_told,
            throttled: BTreeMap::new(),
        };
        for (key, value) in counters.read() {
            // Less than was accounted for: the driver was loaded anew. What was too hot while nobody watched is not any more, and nobody knows
            // in how much time it was so.
            let known = accounted.get(&key.to_string()).filter(|_| !matches!(key, Key::Throttled { .. }));
            let base = known.copied().unwrap_or(value).min(value);
            counters.known.insert(key, Counter { base, ..Counter::default() });
        }
        counters
    }

    /// What is accounted for.
    pub(crate) fn accounted(&self) -> Accounted {
        self.known.iter().map(|(key, counter)| (key.to_string(), counter.base + counter.told())).collect()
    }

    /// A record was heard that some counter has counted.
    pub(crate) fn heard(&mut self, heard: &Heard) {
        if heard.at < self.begun || heard.channel == Channel::Counter {
            return;
        }
        let Some((mut key, count)) = key_of(&heard.record).or_else(|| self.end_of_throttling(heard)) else { return };
        if !self.known.contains_key(&key)
            && let Key::Memory { label, .. } = &mut key
        {
            *label = None;
        }
        if let Some(counter) = self.known.get_mut(&key) {
            *counter.told.entry(heard.channel).or_default() += count;
        }
    }

    /// The kernel counts how long something was throttled when that ends (`therm_throt_process` in thermal/intel/therm_throt.c).
    fn end_of_throttling(&mut self, heard: &Heard) -> Option<(Key, u64)> {
        let Record::Throttle(Throttle { cpu, package, hot }) = heard.record else { return None };
        let key = Key::Throttled { cpu, package };
        if hot {
            self.throttled.entry(key).or_insert(heard.at);
            return None;
        }
        let since = self.throttled.remove(&key)?;
        Some((key, u64::try_from(heard.at.since(since).as_millis()).unwrap_or(u64::MAX)))
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
            let missing = (value - counter.base).saturating_sub(counter.told());
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
        counters.extend(self.thermal());
        if !self.block_is_told {
            counters.extend(self.block());
        }
        counters
    }

    fn memory(&self) -> Vec<(Key, u64)> {
        let mut counters: Vec<(Key, u64)> = Vec::new();
        for (name, path) in entries(&self.sysfs.join("devices/system/edac/mc")) {
            let Some(controller) = name.strip_prefix("mc").and_then(|number| number.parse().ok()) else { continue };
            let dimms: Vec<_> = entries(&path).into_iter().filter(|(name, _)| name.starts_with("dimm")).collect();
            let prefix =
                if dimms.is_empty() { ["ce_count", "ue_count"] } else { ["ce_noinfo_count", "ue_noinfo_count"] };
            for (file, corrected) in prefix.into_iter().zip([true, false]) {
                let key = Key::Memory { controller, label: None, corrected };
                counters.extend(number(&path.join(file)).map(|value| (key, value)));
            }
            for (_, dimm) in dimms {
                let label = fs::read_to_string(dimm.join("dimm_label")).unwrap_or_default().trim().to_owned();
                for (file, corrected) in [("dimm_ce_count", true), ("dimm_ue_count", false)] {
                    let key = Key::Memory { controller, label: Some(label.clone()), corrected };
                    counters.extend(number(&dimm.join(file)).map(|value| (key, value)));
                }
            }
        }
        // DIMMs that were given the same label, or none, are counted together.
        let mut summed = BTreeMap::new();
        counters.into_iter().for_each(|(key, value)| *summed.entry(key).or_default() += value);
        summed.into_iter().collect()
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

    /// How long, which is what it is judged by; `*_throttle_count` next to it only says how often.
    fn thermal(&self) -> Vec<(Key, u64)> {
        let mut counters = Vec::new();
        for (name, path) in entries(&self.sysfs.join("devices/system/cpu")) {
            let Some(cpu) = name.strip_prefix("cpu").and_then(|number| number.parse().ok()) else { continue };
            for package in [false, true] {
                let file = format!("thermal_throttle/{}_throttle_total_time_ms", level(package));
                counters.extend(number(&path.join(file)).map(|value| (Key::Throttled { cpu, package }, value)));
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
            let label = Some(error.label.trim().to_owned());
            Some((Key::Memory { controller: error.controller, label, corrected }, error.count))
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
        Key::Memory { controller, label, corrected } => Record::Memory(MemoryError {
            severity: if *corrected { Severity::Corrected } else { Severity::Uncorrected },
            controller: *controller,
            label: label.clone().unwrap_or_default(),
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
        Key::Throttled { cpu, package } => Record::Throttled { cpu: *cpu, package: *package, ms: count },
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
