//! Guests that crash by themselves, and what is done about it.
//!
//! A guest that panics would do so again on the standby, if what it does next follows from its memory: the image is from a moment
//! before. So by default it is booted anew where it is, as a real machine would be. What may help against a crash that does not follow
//! from its memory (a fault of this host that nobody noticed, a race) is to go on elsewhere from the last checkpoint, and that is done
//! once: a guest that crashes again soon after it was resumed so is booted anew.
//!
//! What was counted goes with every checkpoint, so that it survives a failover; and what made a primary end goes with its goodbye.

use std::fmt;
use std::time::Duration;

use kemari_vmm::{LoadError, MachineEvent};

use crate::config::OnGuestPanic;

/// How soon after a failover a crash is taken for the one that the failover was about.
const AGAIN: Duration = Duration::from_secs(300);

/// How a guest can crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Crash {
    /// Its kernel says so.
    Panic = 1,
    /// Not even an exception can be delivered.
    TripleFault = 2,
    /// KVM cannot go on with it.
    InternalError = 3,
    /// It did not come by at its watchdog.
    Watchdog = 4,
}

impl Crash {
    const ALL: [Crash; 4] = [Crash::Panic, Crash::TripleFault, Crash::InternalError, Crash::Watchdog];

    fn name(self) -> &'static str {
        match self {
            Crash::Panic => "panic",
            Crash::TripleFault => "triple fault",
            Crash::InternalError => "KVM internal error",
            Crash::Watchdog => "watchdog",
        }
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is done about a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The guest is booted anew here.
    Restart,
    /// This node ends, and the standby resumes the guest from the last checkpoint.
    FailOver,
    /// The guest stands still.
    Stop,
}

/// Decides about a guest that has crashed. `resumed` is how long ago it was resumed after the loss of its primary, if it was;
/// `protected` whether somebody could go on with it.
pub(super) fn verdict(policy: OnGuestPanic, resumed: Option<Duration>, protected: bool) -> Verdict {
    match policy {
        OnGuestPanic::Stop => Verdict::Stop,
        OnGuestPanic::FailoverOnce if protected && resumed.is_none_or(|ago| ago >= AGAIN) => Verdict::FailOver,
        OnGuestPanic::FailoverOnce | OnGuestPanic::Restart => Verdict::Restart,
    }
}

/// Those events that are heeded: none of a guest that runs elsewhere; and after the end of a guest, nothing of what it did on its way.
/// The hardware and the disks have still said what they said.
pub(super) fn heeded(events: Vec<MachineEvent>, is_primary: bool) -> impl Iterator<Item = MachineEvent> {
    let mut ended = !is_primary;
    events.into_iter().filter(move |event| !event.is_end() || !std::mem::replace(&mut ended, true))
}

/// The crashes of a guest since it was booted by an operator or the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    count: u32,
    last: Option<Crash>,
}

/// Its bytes at the end of a checkpoint's state.
const LEDGER_BYTES: usize = size_of::<u32>() + 1;

impl Ledger {
    /// One more.
    pub(super) fn count(&mut self, crash: Crash) {
        self.count = self.count.saturating_add(1);
        self.last = Some(crash);
    }

    /// How many, and what the last one was.
    pub(super) fn crashes(&self) -> Option<(u32, Crash)> {
        self.last.map(|last| (self.count, last))
    }

    /// Of two about the same guest, the one that knows more.
    pub(super) fn newer(self, other: Ledger) -> Ledger {
        if other.count > self.count { other } else { self }
    }

    /// Appends it to a checkpoint's state.
    pub(super) fn append(&self, state: &mut Vec<u8>) {
        state.extend(self.count.to_le_bytes());
        state.push(self.last.map_or(0, |crash| crash as u8));
    }

    /// Takes it off a checkpoint's state.
    ///
    /// # Errors
    /// There is none, or it makes no sense.
    pub(super) fn split(state: &[u8]) -> Result<(Ledger, &[u8]), LoadError> {
        let malformed = || LoadError::Malformed("it does not end with the guest's crashes".to_owned());
        let (machine, bytes) = state.split_last_chunk::<LEDGER_BYTES>().ok_or_else(malformed)?;
        let [count @ .., last] = *bytes;
        let count = u32::from_le_bytes(count);
        let crash = Crash::ALL.into_iter().find(|crash| *crash as u8 == last);
        if crash.is_some() != (count > 0) || (crash.is_none() && last != 0) {
            return Err(malformed());
        }
        Ok((Ledger { count, last: crash }, machine))
    }

    /// What a primary says when it ends because of a crash.
    pub(super) fn farewell(&self) -> String {
        self.last.map_or_else(String::new, |last| format!("{FAREWELL}{last}; {} crashes in all", self.count))
    }

    /// What a primary that said this had counted.
    pub(super) fn of_farewell(said: &str) -> Option<Ledger> {
        let (last, count) = said.strip_prefix(FAREWELL)?.strip_suffix(" crashes in all")?.split_once("; ")?;
        let last = Crash::ALL.into_iter().find(|crash| crash.name() == last)?;
        Some(Ledger { count: count.parse().ok().filter(|count| *count > 0)?, last: Some(last) })
    }
}

const FAREWELL: &str = "the guest crashed: ";

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_AGO: Duration = Duration::from_secs(3600);
    const JUST_NOW: Duration = Duration::from_secs(2);

    #[test]
    fn a_guest_is_not_failed_over_into_the_same_crash_again() {
        let once = |resumed, protected| verdict(OnGuestPanic::FailoverOnce, resumed, protected);
        assert_eq!(once(None, true), Verdict::FailOver);
        assert_eq!(once(Some(JUST_NOW), true), Verdict::Restart);
        assert_eq!(once(Some(LONG_AGO), true), Verdict::FailOver, "another one");
        assert_eq!(once(None, false), Verdict::Restart, "nobody could go on");
        for (resumed, protected) in [(None, true), (Some(JUST_NOW), true), (Some(LONG_AGO), false)] {
            assert_eq!(verdict(OnGuestPanic::Restart, resumed, protected), Verdict::Restart);
            assert_eq!(verdict(OnGuestPanic::Stop, resumed, protected), Verdict::Stop);
        }
    }

    #[test]
    fn what_was_counted_goes_with_a_checkpoint() {
        let mut ledger = Ledger::default();
        for crash in [None, Some(Crash::Panic), Some(Crash::Watchdog)] {
            if let Some(crash) = crash {
                ledger.count(crash);
            }
            let mut state = b"machine".to_vec();
            ledger.append(&mut state);
            assert_eq!(Ledger::split(&state).expect("whole"), (ledger, &b"machine"[..]));
        }
        assert_eq!(ledger.crashes(), Some((2, Crash::Watchdog)));
        for bad in [&b""[..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1], &[1, 0, 0, 0, 9]] {
            assert!(Ledger::split(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_was_counted_goes_with_a_goodbye() {
        let mut ledger = Ledger::default();
        for crash in Crash::ALL {
            ledger.count(crash);
            assert_eq!(Ledger::of_farewell(&ledger.farewell()), Some(ledger), "{}", ledger.farewell());
            assert_eq!(Ledger::default().newer(ledger), ledger);
            assert_eq!(ledger.newer(Ledger::default()), ledger);
        }
        for said in [
            "stopped",
            "",
            "the guest crashed: boredom; 1 crashes in all",
            "the guest crashed: panic; 0 crashes in all",
        ] {
            assert_eq!(Ledger::of_farewell(said), None, "{said}");
        }
    }

    #[test]
    fn a_guest_ends_once() {
        let lost = MachineEvent::MemoryLost;
        let batch = vec![MachineEvent::CrashKernel, MachineEvent::Reset, lost.clone(), MachineEvent::TripleFault];
        let heard: Vec<_> = heeded(batch.clone(), true).collect();
        assert_eq!(heard, [MachineEvent::CrashKernel, MachineEvent::Reset, lost.clone()]);
        let heard: Vec<_> = heeded(batch, false).collect();
        assert_eq!(heard, [MachineEvent::CrashKernel, lost]);
    }
}
