//! The vCPUs' threads, and how all of them are stopped and started.
//!
//! A vCPU is owned by its thread while the guest runs and by the [`Crew`] while it is paused; it changes hands through a slot.
//! A thread that stops saves its vCPU's state by itself, all in parallel, so that a checkpoint needs no further hop. Before,
//! the last one to stop saves the interrupt controllers: a tick that is delivered in between is then seen in the LAPIC, if not in
//! both; the other way round it would be lost.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kemari_devices::Memory;
use kvm_bindings::kvm_run;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::{Buses, Vcpu, VcpuState};
use crate::chips::Chips;
use crate::damage::Watch;
use crate::{Error, MachineEvent};

/// How long a vCPU may take to leave the guest. Far longer than any exit takes; the host must be in trouble.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What was saved when the vCPUs stopped.
pub(crate) struct Snapshot {
    /// Timer and interrupt controllers.
    pub(crate) chips: Chips,
    /// By number.
    pub(crate) vcpus: Vec<VcpuState>,
}

/// The vCPUs and their threads.
pub(crate) struct Crew {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// All of them, while the guest is paused; none, while it runs.
    paused: Vec<Vcpu>,
    snapshot: Option<Result<Snapshot, Error>>,
}

struct Shared {
    /// Kept mapped for as long as a vCPU may run.
    _memory: Memory,
    vm: Arc<VmFd>,
    watch: Arc<Watch>,
    buses: Buses,
    kicks: Vec<Kick>,
    phase: Mutex<Phase>,
    /// The phase has changed in a way that threads wait for.
    go: Condvar,
    /// The last vCPU has come into its slot.
    all_stopped: Condvar,
    events: Mutex<Vec<MachineEvent>>,
    /// Readable when there are events.
    wake: EventFd,
}

struct Phase {
    goal: Goal,
    /// Counts the times the guest was let run.
    round: u64,
    /// vCPUs that have left the guest in this round.
    arrived: usize,
    /// Saved by the last one to arrive.
    chips: Option<Result<Chips, Error>>,
    /// Where a vCPU is while nobody has it: from its having stopped until the crew takes it, and from the start of a round
    /// until its thread takes it.
    slots: Vec<Option<Waiting>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    Pause,
    Run,
    End,
}

struct Waiting {
    vcpu: Vcpu,
    /// Saved when it stopped; none if it is to start.
    state: Option<Result<VcpuState, Error>>,
}

impl Phase {
    /// The first vCPU that has not stopped in this round.
    fn missing(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_none_or(|waiting| waiting.state.is_none()))
    }
}

impl Crew {
    /// Starts a thread for each vCPU. The guest is paused. `wake` becomes readable when [`take_events`](Crew::take_events) has
    /// some.
    pub(crate) fn new(
        vm: Arc<VmFd>,
        memory: Memory,
        watch: Arc<Watch>,
        buses: Buses,
        vcpus: Vec<Vcpu>,
        wake: EventFd,
    ) -> Result<Crew, Error> {
        let resource = |what| move |source| Error::Resource { what, source };
        register_signal_handler(SIGRTMIN(), ignore)
            .map_err(|error| Error::Resource { what: "the signal handler for kicks", source: error.into() })?;
        let kicks = vcpus.iter().map(Kick::new).collect::<Result<Vec<_>, _>>();
        let phase =
            Phase { goal: Goal::Pause, round: 0, arrived: 0, chips: None, slots: vcpus.iter().map(|_| None).collect() };
        let shared = Arc::new(Shared {
            _memory: memory,
            vm,
            watch,
            buses,
            kicks: kicks.map_err(resource("a mapping of kvm_run"))?,
            phase: Mutex::new(phase),
            go: Condvar::new(),
            all_stopped: Condvar::new(),
            events: Mutex::new(Vec::new()),
            wake,
        });
        let mut crew = Crew { shared, threads: Vec::new(), paused: vcpus, snapshot: None };
        for index in 0..crew.paused.len() {
            let shared = crew.shared.clone();
            let thread = std::thread::Builder::new().name(format!("vcpu{index}")).spawn(move || shared.live(index));
            crew.threads.push(thread.map_err(resource("a vCPU's thread"))?);
        }
        Ok(crew)
    }

    /// Whether the guest runs.
    pub(crate) fn is_running(&self) -> bool {
        self.paused.is_empty()
    }

    /// The vCPUs; none if the guest runs.
    pub(crate) fn paused(&mut self) -> &mut [Vcpu] {
        &mut self.paused
    }

    /// Takes what was saved when the vCPUs stopped, if nobody has taken or forgotten it since.
    pub(crate) fn take_snapshot(&mut self) -> Option<Result<Snapshot, Error>> {
        self.snapshot.take()
    }

    /// Forgets it, because the vCPUs are not any more as they were then.
    pub(crate) fn forget_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Forgets all that the vCPUs have said, because they are to have another history.
    pub(crate) fn forget(&mut self) {
        self.forget_snapshot();
        lock(&self.shared.events).clear();
    }

    /// Lets the guest run. Does nothing if it does.
    pub(crate) fn run(&mut self) {
        if self.is_running() {
            return;
        }
        self.snapshot = None;
        let mut phase = self.shared.phase();
        for (slot, vcpu) in phase.slots.iter_mut().zip(self.paused.drain(..)) {
            *slot = Some(Waiting { vcpu, state: None });
        }
        phase.goal = Goal::Run;
        phase.round += 1;
        phase.arrived = 0;
        phase.chips = None;
        self.shared.kicks.iter().for_each(Kick::disarm);
        drop(phase);
        self.shared.go.notify_all();
    }

    /// Stops the guest and takes a [snapshot](Crew::take_snapshot). If it is stopped already, the last snapshot is forgotten:
    /// time has gone by since.
    pub(crate) fn pause(&mut self) -> Result<(), Error> {
        if !self.is_running() {
            self.snapshot = None;
            return Ok(());
        }
        let mut phase = self.shared.phase();
        phase.goal = Goal::Pause;
        self.shared.kicks.iter().for_each(Kick::arm);
        drop(phase);
        for thread in &self.threads {
            // A thread that has ended has no vCPU to be stopped; it is missed below.
            let _ = thread.kill(SIGRTMIN());
        }
        let mut phase = self
            .shared
            .all_stopped
            .wait_timeout_while(self.shared.phase(), STOP_LIMIT, |phase| phase.missing().is_some())
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if let Some(vcpu) = phase.missing() {
            return Err(Error::Stuck { vcpu, limit: STOP_LIMIT });
        }
        let chips = phase.chips.take();
        let stopped: Vec<Waiting> = phase.slots.iter_mut().filter_map(Option::take).collect();
        drop(phase);
        let mut states = Vec::with_capacity(stopped.len());
        for Waiting { vcpu, state } in stopped {
            self.paused.push(vcpu);
            states.extend(state);
        }
        self.snapshot = chips.map(|chips| {
            let vcpus = states.into_iter().collect::<Result<_, _>>()?;
            Ok(Snapshot { chips: chips?, vcpus })
        });
        Ok(())
    }

    /// What the vCPUs had to tell.
    pub(crate) fn take_events(&self) -> Vec<MachineEvent> {
        std::mem::take(&mut *lock(&self.shared.events))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if let Err(error) = self.pause() {
            // Its thread keeps what it needs: VM, memory, devices' registers.
            log::error!("{error}; its thread is left behind");
            return;
        }
        self.shared.phase().goal = Goal::End;
        self.shared.go.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a vCPU's thread had panicked");
            }
        }
    }
}

impl Shared {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        lock(&self.phase)
    }

    /// The life of a vCPU's thread.
    fn live(&self, index: usize) {
        let mut round = 0;
        while let Some(mut vcpu) = self.await_run(index, &mut round) {
            // With a page lost it waits to be paused: the guest must not see what is in its place.
            let event = vcpu.run(&self.buses, || self.kicks[index].is_armed() || self.watch.is_damaged());
            if let Some(event) = event {
                lock(&self.events).push(event);
                // It can only fail if the counter overflows, and then it is readable anyway.
                let _ = self.wake.write(1);
            }
            self.stop(vcpu);
        }
    }

    /// Waits until the vCPU is to run in a round after `round`; `None` if it never will.
    fn await_run(&self, index: usize, round: &mut u64) -> Option<Vcpu> {
        let mut phase = self.phase();
        loop {
            match phase.goal {
                Goal::End => return None,
                // Even if the guest was stopped again before this thread woke: the others count on it to stop, too.
                Goal::Run | Goal::Pause if phase.round > *round => {
                    *round = phase.round;
                    return phase.slots[index].take().map(|waiting| waiting.vcpu);
                }
                Goal::Run | Goal::Pause => phase = self.go.wait(phase).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Saves the vCPU's state once no vCPU runs any more, and puts it into its slot.
    fn stop(&self, mut vcpu: Vcpu) {
        let mut phase = self.phase();
        phase.arrived += 1;
        if phase.arrived == phase.slots.len() {
            drop(phase);
            let chips = Chips::save(&self.vm);
            phase = self.phase();
            phase.chips = Some(chips);
            self.go.notify_all();
        } else {
            while phase.chips.is_none() {
                phase = self.go.wait(phase).unwrap_or_else(PoisonError::into_inner);
            }
        }
        drop(phase);
        let state = Some(VcpuState::save(&mut vcpu));
        let index = usize::from(vcpu.index);
        let mut phase = self.phase();
        phase.slots[index] = Some(Waiting { vcpu, state });
        if phase.missing().is_none() {
            self.all_stopped.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic happens under these locks; if it did, what they guard would still be whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// The flag that keeps a vCPU out of the guest: a mapping of our own of the vCPU's `kvm_run`.
///
/// The signal alone would come to nothing if it were delivered just before KVM_RUN.
struct Kick(NonNull<kvm_run>);

// SAFETY: the mapping belongs to this value, and is only used through an atomic.
unsafe impl Send for Kick {}
// SAFETY: as above.
unsafe impl Sync for Kick {}

impl Kick {
    fn new(vcpu: &Vcpu) -> std::io::Result<Kick> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<kvm_run>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.fd.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(run) if address != libc::MAP_FAILED => Ok(Kick(run)),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    fn flag(&self) -> &AtomicU8 {
        // SAFETY: the mapping is as long as a kvm_run and lives as long as `self`. All that the kernel and this program do with
        // the byte while a vCPU may run is to read it, or to store to it through this atomic.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.0.as_ptr()).immediate_exit) }
    }

    fn arm(&self) {
        self.flag().store(1, Ordering::Release);
    }

    fn disarm(&self) {
        self.flag().store(0, Ordering::Release);
    }

    fn is_armed(&self) -> bool {
        self.flag().load(Ordering::Acquire) != 0
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody has a reference into it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<kvm_run>()) };
    }
}
