//! The guest: KVM VM and vCPUs, memory and dirty tracking, boot, devices, save and load.
//!
//! A [`Machine`] is made once and serves as the primary's guest or as the standby's copy. It knows nothing of peers: it hands out
//! what the guest wants to show as [`Output`], and takes it back to be performed once it is
//! [released](kemari_core::Released). A checkpoint is cut by [`pause`](Machine::pause), [`save`](Machine::save),
//! [`harvest`](Machine::harvest), [`copy_pages`](Machine::copy_pages), [`run`](Machine::run), in this order: to save may dirty
//! memory.
//!
//! # Pages
//! A page number is the index of a page in RAM, not in the guest's physical address space: RAM lies at 0 to 3 GiB, and what
//! does not fit there lies from 4 GiB on, behind the hole for devices. Page `n` is at address `n * 4096` below the hole, and
//! 1 GiB higher above it.

mod acpi;
mod boot;
mod bus;
mod chips;
mod config;
mod cpu;
mod damage;
mod devices;
mod error;
mod event;
mod image;
pub mod inspect;
mod kvm;
mod machine;
mod memory;
mod mptable;
mod plain;
mod sections;
mod vcpu;

pub use config::{ConsoleConfig, DiskConfig, MachineConfig, NicConfig, VCPUS_MAX};
pub use error::{Error, LoadError};
pub use event::{LostPages, MachineEvent};
pub use kemari_devices::{ALLOWED as ALLOWED_DEVICES, Kind as DeviceKind};
pub use kemari_devices::{
    ConsoleStats, DiskFailure, DiskFault, DiskOperation, DiskStats, Interest, NetStats, OnDiskError, Output,
    OutputKind, Sink, Source, SourceId, is_serial_number, is_tap_name,
};
pub use machine::{CutTimings, Machine};
pub use memory::{MEMORY_MIB_MAX, MEMORY_MIB_MIN, RESET_PAGES};
