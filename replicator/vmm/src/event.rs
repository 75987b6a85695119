//! What happens to a machine.

use kemari_devices::DiskFault;

/// Something that happened to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest asked for a reset, or one that had begun is not done.
    Reset,
    /// The guest brought itself into a state that only a reset ends.
    TripleFault,
    /// The guest's kernel says that it has panicked.
    Panic,
    /// The guest's kernel says that it has panicked, and that the crash kernel it had loaded takes over.
    CrashKernel,
    /// The guest has let its watchdog run out.
    WatchdogExpired,
    /// The guest turned itself off.
    Shutdown,
    /// KVM cannot go on with what the guest does. The text has the cause, the instruction bytes and the registers.
    InternalError(String),
    /// KVM of this host fails, through no fault of the guest. The text has the cause and the registers.
    Broken(String),
    /// The hardware has lost pages of guest memory; every vCPU that leaves the guest stays out of it. Next comes a pause, and
    /// [`Machine::take_lost`](crate::Machine::take_lost).
    MemoryLost,
    /// A disk failed a request. What becomes of it is as the disk was [configured](crate::DiskConfig::on_error).
    DiskError(DiskFault),
}

impl MachineEvent {
    /// Whether the guest, or the vCPU that ran it, has come to an end by this.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            MachineEvent::Reset
            | MachineEvent::TripleFault
            | MachineEvent::Panic
            | MachineEvent::WatchdogExpired
            | MachineEvent::Shutdown
            | MachineEvent::InternalError(_)
            | MachineEvent::Broken(_) => true,
            MachineEvent::CrashKernel | MachineEvent::MemoryLost | MachineEvent::DiskError(_) => false,
        }
    }
}

/// Pages that the hardware has lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostPages {
    /// Those that the guest wants to use: it cannot go on without them.
    pub touched: Vec<u64>,
    /// Those that the kernel has found out about before anybody used them.
    pub untouched: Vec<u64>,
    /// Whether something was made of what is not there: then nothing that this machine shows or saves is true any more.
    pub void: bool,
}

impl LostPages {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = u64> {
        self.touched.iter().chain(&self.untouched).copied()
    }
}
