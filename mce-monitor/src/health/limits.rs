//! How much of what is too much: the thresholds, with defaults.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use crate::bucket::{Rule, span};
use crate::fault::{Class, Component};

/// A rule, or none if it was switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Limit(pub Option<Rule>);

impl Limit {
    const OFF: Limit = Limit(None);

    const fn new(threshold: u32, seconds: u64) -> Limit {
        Limit(Some(Rule { threshold, window: Duration::from_secs(seconds) }))
    }
}

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Limit, String> {
        if text == "off" { Ok(Limit::OFF) } else { text.parse().map(|rule| Limit(Some(rule))) }
    }
}

/// How long a part must be quiet, written `24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Quiet(pub Duration);

impl TryFrom<String> for Quiet {
    type Error = String;

    fn try_from(text: String) -> Result<Quiet, String> {
        span(&text)
            .map(Quiet)
            .ok_or_else(|| format!("{text:?} is no span of time; write it as \"24h\", with the units s, m, h, d"))
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The thresholds of one kind of part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Corrected faults of one part: yellow.
    pub corrected_yellow: Limit,
    /// Corrected faults of one part: red.
    pub corrected_red: Limit,
    /// Corrected faults that come at once: red.
    pub storm_red: Limit,
    /// Pages of a DIMM that had corrected faults: yellow.
    pub pages_yellow: Limit,
    /// Pages of a DIMM that had corrected faults: red.
    pub pages_red: Limit,
    /// Faults that were not corrected and are not red by themselves: yellow.
    pub uncorrected_yellow: Limit,
    /// The same: red.
    pub uncorrected_red: Limit,
    /// How long a part stays yellow after it last had too much.
    pub quiet: Quiet,
    /// Whether red, too, goes by itself.
    pub red_passes: bool,
    /// Whether one severe fault is red, rather than yellow.
    pub severe_is_red: bool,
}

/// How much a fault weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Nothing.
    None,
    /// Counted by the rules for corrected faults.
    Corrected,
    /// Counted by the rules for uncorrected faults.
    Uncorrected,
    /// Red at once, on a part that may be.
    Severe,
}

impl Limits {
    /// What a kind of part has if nobody says otherwise.
    #[must_use]
    pub const fn of(component: Component) -> Limits {
        let none = Limits {
            corrected_yellow: Limit::OFF,
            corrected_red: Limit::OFF,
            storm_red: Limit::OFF,
            pages_yellow: Limit::OFF,
            pages_red: Limit::OFF,
            uncorrected_yellow: Limit::new(1, DAY),
            uncorrected_red: Limit::OFF,
            quiet: Quiet(Duration::from_secs(DAY)),
            red_passes: false,
            severe_is_red: true,
        };
        match component {
            Component::Memory => Limits {
                corrected_yellow: Limit::new(10, DAY),
                corrected_red: Limit::new(100, HOUR),
                storm_red: Limit::new(100, 10),
                pages_yellow: Limit::new(2, DAY),
                pages_red: Limit::new(8, DAY),
                ..none
            },
            Component::Processor => {
                Limits { corrected_yellow: Limit::new(3, DAY), corrected_red: Limit::new(18, DAY), ..none }
            }
            Component::Pci => {
                Limits { corrected_yellow: Limit::new(100, HOUR), uncorrected_red: Limit::new(3, HOUR), ..none }
            }
            Component::Block => Limits { uncorrected_red: Limit::new(5, 5 * MINUTE), ..none },
            // Seconds of throttling. Five minutes without a break are red a little later: the bucket drains meanwhile.
            Component::Thermal => Limits {
                corrected_yellow: Limit::new(10, MINUTE),
                corrected_red: Limit::new(300, HOUR),
                quiet: Quiet(Duration::from_secs(10 * MINUTE)),
                red_passes: true,
                ..none
            },
            Component::Network => none,
        }
    }
}

/// How much a fault of this class weighs on a part of this kind.
#[must_use]
pub fn weight(class: Class, component: Component) -> Weight {
    match (class, component) {
        (Class::Noise | Class::Info, _) => Weight::None,
        (Class::Corrected, _) => Weight::Corrected,
        (_, Component::Memory) | (Class::Fatal, _) => Weight::Severe,
        (Class::Ucna, _) => Weight::Uncorrected,
        (_, Component::Processor) => Weight::Severe,
        (_, Component::Pci | Component::Block | Component::Thermal | Component::Network) => Weight::Uncorrected,
    }
}

/// The thresholds of every kind of part, and which parts they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// DIMMs.
    pub memory: Limits,
    /// Processors.
    pub processor: Limits,
    /// PCI Express devices.
    pub pci: Limits,
    /// Devices whose uncorrected errors may be red: those that guests use.
    pub pci_of_guests: Vec<String>,
    /// Disks.
    pub block: Limits,
    /// Disks that may make the host red: those that it or its guests cannot do without. None: every one.
    pub disks: Option<BTreeSet<String>>,
    /// Cooling.
    pub thermal: Limits,
    /// Network cards.
    pub network: Limits,
    /// Interfaces that are missed when they have no carrier.
    pub interfaces: Vec<String>,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            memory: Limits::of(Component::Memory),
            processor: Limits::of(Component::Processor),
            pci: Limits::of(Component::Pci),
            pci_of_guests: Vec::new(),
            block: Limits::of(Component::Block),
            disks: None,
            thermal: Limits::of(Component::Thermal),
            network: Limits::of(Component::Network),
            interfaces: Vec::new(),
        }
    }
}

impl Thresholds {
    /// Those that hold for a part.
    pub(super) fn limits(&self, place: &crate::fault::Place) -> Limits {
        match place.component {
            Component::Memory => self.memory,
            Component::Processor => self.processor,
            Component::Pci if self.pci_of_guests.contains(&place.name) => self.pci,
            Component::Pci => Limits { uncorrected_red: Limit::OFF, ..self.pci },
            Component::Block if self.is_needed(&place.name) => self.block,
            Component::Block => Limits { uncorrected_red: Limit::OFF, severe_is_red: false, ..self.block },
            Component::Thermal => self.thermal,
            Component::Network => self.network,
        }
    }

    /// Whether a disk is one that may make the host red. A controller is known by its disks: `nvme0` by `nvme0n1`, `ata3.00` by
    /// `ata3`.
    fn is_needed(&self, name: &str) -> bool {
        let Some(disks) = &self.disks else { return true };
        let is_controller_of = |disk: &String| {
            disk.strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('n'))
                .is_some_and(|rest| rest.parse::<u32>().is_ok())
        };
        let port = name.split('.').next().unwrap_or(name);
        disks.contains(name) || disks.contains(port) || disks.iter().any(is_controller_of)
    }
}
