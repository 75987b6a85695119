//! The state of a whole machine but its memory, as one image of sections.

use std::sync::Once;

use kemari_core::same_frequency;
use vm_memory::{Bytes, GuestAddress};

use crate::chips::{self, Chips};
use crate::plain::Plain;
use crate::sections::{Reader, Section, Sections, append, begin};
use crate::vcpu::{self, Snapshot, Vcpu, VcpuState};
use crate::{Error, LoadError, Machine};

/// Kind and version of the section with what belongs to the machine as a whole.
const KIND: &str = "clock";
const VERSION: u16 = 1;

struct Clock {
    /// kvmclock, in nanoseconds.
    ns: u64,
    tsc_khz: u32,
}

impl Clock {
    fn decode(mut from: Reader<'_>) -> Result<Clock, LoadError> {
        let clock = Clock { ns: from.take("clock")?, tsc_khz: from.take("tsc_khz")? };
        from.finish(KIND)?;
        Ok(clock)
    }
}

/// All of a saved state but the devices.
pub(crate) struct Cpus {
    clock: Clock,
    snapshot: Snapshot,
}

impl Cpus {
    fn decode(sections: &mut Sections<'_>, vcpus: u8) -> Result<Cpus, LoadError> {
        let clock = Clock::decode(sections.take_version(KIND, 0, VERSION)?)?;
        let chips = Chips::decode(sections.take_version(chips::KIND, 0, chips::VERSION)?)?;
        let vcpus = (0..vcpus)
            .map(|index| VcpuState::decode(sections.take_version(vcpu::KIND, index, vcpu::VERSION)?))
            .collect::<Result<_, _>>()?;
        Ok(Cpus { clock, snapshot: Snapshot { chips, vcpus } })
    }
}

/// Saves a machine.
pub(crate) fn save(machine: &mut Machine) -> Result<Vec<u8>, Error> {
    if machine.crew.is_running() {
        return Err(Error::Running("save"));
    }
    let snapshot = match machine.crew.take_snapshot() {
        Some(snapshot) => snapshot?,
        None => {
            let chips = Chips::save(&machine.vm)?;
            Snapshot { chips, vcpus: machine.crew.paused().iter_mut().map(VcpuState::save).collect::<Result<_, _>>()? }
        }
    };
    let clock = chips::clock(&machine.vm)?;
    let mut state = Vec::with_capacity(machine.state_bytes);
    begin(&mut state);
    append(&mut state, KIND, 0, VERSION, |into| {
        into.extend(clock.bytes());
        into.extend(machine.tsc_khz.bytes());
    });
    append(&mut state, chips::KIND, 0, chips::VERSION, |into| snapshot.chips.encode(into));
    for (index, vcpu) in (0..).zip(&snapshot.vcpus) {
        append(&mut state, vcpu::KIND, index, vcpu::VERSION, |into| vcpu.encode(into));
    }
    for device in machine.devices.all() {
        let kind = device.kind();
        append(&mut state, kind.name, device.id().0, kind.state_version, |into| device.save(into));
    }
    // The next one will be about as long, and is not to be moved while it grows.
    machine.state_bytes = state.len() + state.len() / 8;
    Ok(state)
}

/// Loads a machine. All of the state is taken apart before any of it is used.
pub(crate) fn load(machine: &mut Machine, state: &[u8]) -> Result<(), LoadError> {
    if machine.crew.is_running() {
        return Err(Error::Running("load").into());
    }
    let mut sections = Sections::parse(state)?;
    let vcpu_count = machine.crew.paused().len() as u8;
    let Cpus { clock, snapshot } = Cpus::decode(&mut sections, vcpu_count)?;
    let device_sections = machine
        .devices
        .all()
        .map(|device| sections.take(device.kind().name, device.id().0))
        .collect::<Result<Vec<_>, _>>()?;
    sections.finish()?;
    if !same_frequency(clock.tsc_khz, machine.tsc_khz) {
        return Err(LoadError::TscFrequency { saved: clock.tsc_khz, host: machine.tsc_khz });
    }
    machine.crew.forget();
    for (device, Section { version, bytes, .. }) in machine.devices.all_mut().zip(device_sections) {
        device.load(version, bytes)?;
    }
    let clocks = ClockAreas::keep(machine, &snapshot.vcpus)?;
    load_vcpus(machine, &snapshot.vcpus)?;
    snapshot.chips.load(&machine.vm)?;
    chips::set_clock(&machine.vm, clock.ns)?;
    clocks.put_back(machine);
    machine.loaded = Some(Cpus { clock, snapshot });
    Ok(())
}

/// Lets time go on from where it was in the state that was loaded last.
pub(crate) fn set_time(machine: &mut Machine) -> Result<(), Error> {
    let Some(Cpus { clock, snapshot }) = machine.loaded.take() else { return Ok(()) };
    let vcpus = machine.crew.paused();
    let tsc_base = tsc_base(vcpus, &snapshot.vcpus)?;
    for (vcpu, state) in vcpus.iter_mut().zip(&snapshot.vcpus) {
        state.load_time(vcpu, tsc_base)?;
    }
    chips::set_clock(&machine.vm, clock.ns)
}

/// The places in guest memory where KVM writes when clocks are set, with what was there before: the time of day, at once when
/// its MSR is set, and the flags of a kvmclock whose TSC is changed. The guest had seen what was there, not what KVM writes.
struct ClockAreas(Vec<(GuestAddress, Vec<u8>)>);

impl ClockAreas {
    /// Those of the state to be loaded, and those of the machine as it is.
    fn keep(machine: &mut Machine, states: &[VcpuState]) -> Result<ClockAreas, Error> {
        let mut areas: Vec<_> = states.iter().flat_map(VcpuState::clock_areas).collect();
        for vcpu in machine.crew.paused() {
            areas.extend(vcpu.clock_areas()?);
        }
        let memory = machine.ram.memory();
        let keep = |(address, bytes)| {
            let (address, mut content) = (GuestAddress(address), vec![0; bytes]);
            // Where there is no memory, KVM does not write either.
            memory.read_slice(&mut content, address).is_ok().then_some((address, content))
        };
        Ok(ClockAreas(areas.into_iter().filter_map(keep).collect()))
    }

    fn put_back(&self, machine: &Machine) {
        for (address, content) in &self.0 {
            // It was read a moment ago, so it can be written.
            let _ = machine.ram.memory().write_slice(content, *address);
        }
    }
}

/// The TSC offset of the first vCPU, as it was saved and as it must be now for the TSC to go on.
fn tsc_base(vcpus: &[Vcpu], states: &[VcpuState]) -> Result<(u64, u64), Error> {
    let (Some(first), Some(state)) = (vcpus.first(), states.first()) else { return Ok((0, 0)) };
    Ok((state.tsc_offset(), state.offset_to_go_on(first.tsc()?, first.tsc_offset()?)))
}

fn load_vcpus(machine: &mut Machine, states: &[VcpuState]) -> Result<(), Error> {
    let vcpus = machine.crew.paused();
    let tsc_base = tsc_base(vcpus, states)?;
    for (vcpu, state) in vcpus.iter_mut().zip(states) {
        state.load(vcpu, tsc_base)?;
        vcpu.stood_still();
    }
    let (Some(first), Some(first_state)) = (vcpus.first(), states.first()) else { return Ok(()) };
    if !first_state.tsc_goes_on(first.tsc()?, machine.tsc_khz) {
        static WARN: Once = Once::new();
        WARN.call_once(|| {
            log::warn!(
                "KVM of this host ignores what the guest's TSC is set to: it jumps at a change of hosts; use kvmclock"
            );
        });
    }
    Ok(())
}

/// Saves a machine into which `loaded` was loaded, and compares.
pub(crate) fn read_back(machine: &mut Machine, loaded: &[u8]) -> Result<(), LoadError> {
    machine.crew.forget_snapshot();
    let saved = save(machine)?;
    let (mut saved, mut loaded) = (Sections::parse(&saved)?, Sections::parse(loaded)?);
    let vcpu_count = machine.crew.paused().len() as u8;
    let (before, after) = (Cpus::decode(&mut loaded, vcpu_count)?, Cpus::decode(&mut saved, vcpu_count)?);
    let mut differences = before.snapshot.chips.differences(&after.snapshot.chips);
    if after.clock.ns < before.clock.ns {
        differences.push(format!("kvmclock went back by {} ns", before.clock.ns - after.clock.ns));
    }
    for (index, (before, after)) in before.snapshot.vcpus.iter().zip(&after.snapshot.vcpus).enumerate() {
        differences.extend(before.differences(after).into_iter().map(|field| format!("vcpu{index} {field}")));
    }
    for device in machine.devices.all() {
        let (kind, instance) = (device.kind().name, device.id().0);
        if loaded.take(kind, instance)?.bytes != saved.take(kind, instance)?.bytes {
            differences.push(format!("{kind}{instance}"));
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(LoadError::ReadBack(differences)) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machine::bare;

    #[test]
    fn time_goes_on_from_the_save_however_long_the_grant_takes() {
        let Some(mut machine) = bare() else { return };
        let state = machine.save().expect("saved");
        let saved = Cpus::decode(&mut Sections::parse(&state).expect("whole"), 2).expect("whole");
        machine.load(&state).expect("loaded");
        let grant = Duration::from_millis(300);
        std::thread::sleep(grant);
        machine.set_time().expect("set");
        let passed = chips::clock(&machine.vm).expect("a clock").checked_sub(saved.clock.ns).expect("it went back");
        assert!(u128::from(passed) < grant.as_nanos() / 2, "kvmclock jumped by {passed} ns");
        // A machine that was not loaded has nothing to go on from.
        std::thread::sleep(grant);
        machine.set_time().expect("nothing to be done");
        let passed = chips::clock(&machine.vm).expect("a clock") - saved.clock.ns;
        assert!(u128::from(passed) >= grant.as_nanos(), "{passed} ns");
    }
}
