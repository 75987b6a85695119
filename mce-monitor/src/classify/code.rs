//! The error code in the low half of MCi_STATUS: which part of the machine it is about.

use crate::fault::Precision;
use crate::record::{MachineCheck, Vendor};

/// MCA_IPID's hardware id of AMD's memory controllers (`smca_hwid_mcatypes` in arch/x86/kernel/cpu/mce/amd.c).
const UMC_HARDWARE_ID: u64 = 0x96;
/// AMD's family from which on banks have an id (Zen).
const ZEN_FAMILY: u32 = 0x17;
/// How a Zen memory controller codes a failed read: generic, third level, generic transaction.
const UMC_READ: u16 = 0x011b;

/// The part that a code is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Memory, on this channel if it is known.
    Memory { channel: Option<u16> },
    /// A cache of this level; 3 is what is common to several cores.
    Cache { level: u16 },
    /// A translation buffer.
    Tlb { level: u16 },
    /// A bus or interconnect.
    Bus,
    /// Something inside.
    Internal,
    /// The code does not say.
    Unknown,
}

impl Part {
    /// Reads the code: the highest bit that is set says which form it has, bit 12 aside, which says that a filter was on.
    pub(super) fn of(check: &MachineCheck) -> Part {
        let code = (check.status & 0xefff) as u16;
        if is_amd_memory_controller(check, code) {
            return Part::Memory { channel: None };
        }
        let level = code & 3;
        match 15 - (code | 1).leading_zeros() {
            _ if code == 0 => Part::Unknown,
            11 => bus(check.vendor, code),
            10 => Part::Internal,
            9 | 7 => Part::Memory { channel: Some(code & 0xf).filter(|channel| *channel != 0xf) },
            8 => Part::Cache { level },
            4 => Part::Tlb { level },
            3 if code & 0xc == 0xc => Part::Cache { level },
            _ => Part::Internal,
        }
    }

    /// Its name on this processor, and how well that is known.
    pub(super) fn name(&self, check: &MachineCheck) -> (String, Precision) {
        let (cpu, socket) = (check.cpu, check.socket);
        match self {
            Part::Memory { channel: Some(channel) } => {
                (format!("socket{socket} bank{} channel{channel}", check.bank), Precision::Unit)
            }
            Part::Memory { channel: None } => (format!("socket{socket} bank{}", check.bank), Precision::Unit),
            Part::Cache { level: 0 } => (format!("cpu{cpu} cache"), Precision::Part),
            Part::Cache { level: level @ 1..=2 } => (format!("cpu{cpu} L{level} cache"), Precision::Part),
            Part::Cache { .. } => (format!("socket{socket} L3 cache"), Precision::Part),
            Part::Tlb { .. } => (format!("cpu{cpu} TLB"), Precision::Part),
            Part::Bus => (format!("socket{socket} bus"), Precision::Part),
            Part::Internal | Part::Unknown => (format!("cpu{cpu} bank{}", check.bank), Precision::Part),
        }
    }
}

/// On AMD's older processors memory errors have the form of a bus error that is about memory (bits 3:2 are 0) and was found by the
/// north bridge, bank 4.
fn bus(vendor: Vendor, code: u16) -> Part {
    let about_memory = code >> 2 & 3 == 0;
    if vendor == Vendor::Amd && about_memory { Part::Memory { channel: None } } else { Part::Bus }
}

/// From Zen on the bank's id says whose it is; where it was not passed on, the code is all there is.
fn is_amd_memory_controller(check: &MachineCheck, code: u16) -> bool {
    let hardware_id = check.ipid >> 32 & 0xfff;
    check.vendor == Vendor::Amd
        && (hardware_id == UMC_HARDWARE_ID
            || check.ipid == 0 && code == UMC_READ && family(check.signature) >= ZEN_FAMILY)
}

fn family(signature: u32) -> u32 {
    let base = signature >> 8 & 0xf;
    if base == 0xf { base + (signature >> 20 & 0xff) } else { base }
}
