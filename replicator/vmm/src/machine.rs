//! The machine: the one thing the daemon holds.

use std::time::Duration;

use kemari_core::{PageRun, PageSet, Released};
use kemari_devices::{ConsoleStats, DiskStats, NetStats, Output, Source, SourceId};

use crate::{Error, LoadError, MachineConfig};

/// Something that happened to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest asked for a reset, or brought itself into a state that only a reset ends (triple fault).
    Reset,
    /// The guest turned itself off.
    Shutdown,
    /// KVM cannot go on with the guest. The text has the cause, the instruction bytes and the registers.
    InternalError(String),
    /// A disk failed a request; the guest was told. The text names the disk, the request and the cause.
    DiskError(String),
}

/// How long the steps of the last checkpoint took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutTimings {
    /// From kicking the vCPUs to the last one having stopped and saved its state.
    pub pause: Duration,
    /// To put the state together.
    pub save: Duration,
    /// To read and clear both dirty logs.
    pub harvest: Duration,
}

/// A virtual machine.
pub struct Machine {}

impl Machine {
    /// Makes a machine, paused and with nothing in its memory. Memory is mapped and populated, dirty pages are logged from here on.
    ///
    /// # Errors
    /// What is missing on this host, or what `config` has wrong.
    pub fn new(config: &MachineConfig) -> Result<Machine, Error> {
        let _ = config;
        todo!()
    }

    /// Everything that must be equal on both hosts, as keys and values.
    #[must_use]
    pub fn layout(&self) -> Vec<(String, String)> {
        todo!()
    }

    /// Puts the machine into the state of a cold boot: memory zeroed, kernel loaded, vCPU 0 at its entry. Stays paused,
    /// its devices stopped.
    ///
    /// # Errors
    /// The kernel cannot be read or is none; the machine is running.
    pub fn boot(&mut self) -> Result<(), Error> {
        todo!()
    }

    /// The guest's reset: the same as a [`boot`](Machine::boot).
    ///
    /// # Errors
    /// As `boot`.
    pub fn reset(&mut self) -> Result<(), Error> {
        todo!()
    }

    /// Puts saved state into vCPUs, interrupt controllers, timers and devices. Memory was put in place by the caller and is left
    /// exactly as it is. Any number of times, on a new machine as on one that has run; stays paused, its devices stopped.
    ///
    /// # Errors
    /// State that does not fit; the machine can then only be loaded anew or booted.
    pub fn load(&mut self, state: &[u8]) -> Result<(), LoadError> {
        let _ = state;
        todo!()
    }

    /// Saves what was just loaded and compares: the rehearsal of a promotion. Time that has passed is no difference.
    ///
    /// # Errors
    /// The differences, by part and field.
    pub fn read_back(&mut self, state: &[u8]) -> Result<(), LoadError> {
        let _ = state;
        todo!()
    }

    /// Lets the vCPUs run. Does nothing if they do.
    pub fn run(&mut self) {
        todo!()
    }

    /// Stops the vCPUs and collects what the guest has shown up to here. If they are stopped already, only collects.
    ///
    /// # Errors
    /// A vCPU does not stop.
    pub fn pause(&mut self, outputs: &mut Vec<Output>) -> Result<(), Error> {
        let _ = outputs;
        todo!()
    }

    /// The state of everything but memory. Only while paused.
    ///
    /// # Errors
    /// KVM does not give it; the machine is running.
    pub fn save(&mut self) -> Result<Vec<u8>, Error> {
        todo!()
    }

    /// Adds the pages written since the last call, by the guest or by this program, to `into`.
    ///
    /// # Errors
    /// KVM does not give its log.
    pub fn harvest(&mut self, into: &mut PageSet) -> Result<(), Error> {
        let _ = into;
        todo!()
    }

    /// Appends the content of pages to `into`.
    ///
    /// # Errors
    /// There are no such pages.
    pub fn copy_pages(&self, run: PageRun, into: &mut Vec<u8>) -> Result<(), Error> {
        let _ = (run, into);
        todo!()
    }

    /// Replaces the content of pages.
    ///
    /// # Errors
    /// There are no such pages, or `data` does not have their length.
    pub fn write_pages(&self, run: PageRun, data: &[u8]) -> Result<(), Error> {
        let _ = (run, data);
        todo!()
    }

    /// Pages of guest memory.
    #[must_use]
    pub fn pages(&self) -> u64 {
        todo!()
    }

    /// What the event loop must poll, edge-triggered. The same for as long as the machine lives.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        todo!()
    }

    /// Does what there is to do at a source that is ready.
    pub fn service(&mut self, id: SourceId, outputs: &mut Vec<Output>, events: &mut Vec<MachineEvent>) {
        let _ = (id, outputs, events);
        todo!()
    }

    /// Performs an output. After the last one of a batch comes [`signal`](Machine::signal).
    pub fn release(&mut self, output: Released<Output>) {
        let _ = output;
        todo!()
    }

    /// Tells the guest of what was released.
    pub fn signal(&mut self) {
        todo!()
    }

    /// Lets the devices serve the guest: after a boot, or when a loaded machine is to go on (not in a rehearsal). What was taken
    /// and not finished before the save is done again.
    pub fn start_devices(&mut self) {
        todo!()
    }

    /// Makes the devices stop serving the guest: no frame is received, nothing is taken.
    pub fn stop_devices(&mut self) {
        todo!()
    }

    /// Tells the network where the guest is now. The announcement is output like any other. After `start_devices`.
    pub fn announce(&mut self, outputs: &mut Vec<Output>) {
        let _ = outputs;
        todo!()
    }

    /// Whether held output has reached its limit, so that the guest must wait.
    pub fn set_backpressure(&mut self, full: bool) {
        let _ = full;
        todo!()
    }

    /// Requests that were handed to the disks and are not completed.
    #[must_use]
    pub fn disk_in_flight(&self) -> usize {
        todo!()
    }

    /// Asks the guest to shut down, by Ctrl-Alt-Del.
    pub fn ctrl_alt_del(&mut self) {
        todo!()
    }

    /// How long the steps of the last checkpoint took.
    #[must_use]
    pub fn timings(&self) -> CutTimings {
        todo!()
    }

    /// Counters of the network cards.
    #[must_use]
    pub fn net_stats(&self) -> Vec<NetStats> {
        todo!()
    }

    /// Counters of the disks.
    #[must_use]
    pub fn disk_stats(&self) -> Vec<DiskStats> {
        todo!()
    }

    /// Counters of the serial port.
    #[must_use]
    pub fn console_stats(&self) -> ConsoleStats {
        todo!()
    }
}
