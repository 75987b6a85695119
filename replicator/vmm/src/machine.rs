//! The machine: the one thing the daemon holds.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kemari_core::{PageRun, PageSet, Released};
use kemari_devices::{
    ConsoleStats, Device, DeviceEvent, DeviceId, DiskStats, Interest, NetStats, Output, Source, SourceId,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::Bus;
use crate::chips::Chips;
use crate::cpu::CpuModel;
use crate::damage::Watch;
use crate::devices::Devices;
use crate::event::{LostPages, MachineEvent};
use crate::image;
use crate::kvm::failed;
use crate::memory::Ram;
use crate::vcpu::{Buses, Crew, Vcpu};
use crate::{Error, LoadError, MachineConfig, VCPUS_MAX, boot, inspect, kvm, sections, vcpu};

/// The source by which the vCPUs tell the event loop something: no device has this number.
const VCPUS: SourceId = SourceId { device: DeviceId(u8::MAX), index: 0 };

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
pub struct Machine {
    // In the order in which they must be dropped: threads, devices, VM, memory.
    pub(crate) crew: Crew,
    pub(crate) devices: Devices,
    pub(crate) vm: Arc<VmFd>,
    watch: Arc<Watch>,
    pub(crate) ram: Ram,
    config: MachineConfig,
    /// What the guest boots from, as the peer was told.
    files: boot::Files,
    model: CpuModel,
    pub(crate) tsc_khz: u32,
    /// The state that a boot begins with.
    birth: Vec<u8>,
    /// Pages that a reset has cleared so far.
    cleared_pages: u64,
    /// What was loaded last, until the guest runs.
    pub(crate) loaded: Option<image::Cpus>,
    /// Bytes to set aside for the next saved state.
    pub(crate) state_bytes: usize,
    wake: EventFd,
    backpressure: bool,
    timings: CutTimings,
}

impl Machine {
    /// Makes a machine, paused and with nothing in its memory. Memory is mapped and populated, dirty pages are logged from
    /// here on.
    ///
    /// # Errors
    /// What is missing on this host, or what `config` has wrong.
    pub fn new(config: &MachineConfig) -> Result<Machine, Error> {
        if !(1..=VCPUS_MAX).contains(&config.vcpus) {
            let remedy = format!("it must be 1 to {VCPUS_MAX}");
            return Err(Error::Config { key: "vcpus", value: config.vcpus.to_string(), remedy });
        }
        let kvm = kvm::open()?;
        let vm = Arc::new(kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?);
        kvm::enable_events(&vm)?;
        let ram = Ram::new(&vm, config.memory_mib)?;
        // Now, and not when the guest is wanted here.
        inspect::boot(config)?;
        let files = boot::Files::read(config)?;
        Chips::create(&vm)?;
        let mut model = CpuModel::new(&kvm, &vm, config.vcpus)?;
        let vcpus =
            (0..config.vcpus).map(|index| Vcpu::new(&kvm, &vm, &mut model, index)).collect::<Result<Vec<_>, _>>()?;
        vcpu::align_tscs(&vcpus)?;
        let tsc_khz = vcpus.first().map_or(Ok(0), Vcpu::tsc_khz)?;
        let mut buses = Buses { ports: Bus::default(), addresses: Bus::default() };
        let devices = Devices::new(config, &vm, ram.memory(), &mut buses)?;
        let eventfd = |source| Error::Resource { what: "an eventfd", source };
        let wake = EventFd::new(EFD_NONBLOCK).map_err(eventfd)?;
        let theirs = wake.try_clone().map_err(eventfd)?;
        let watch = Arc::new(Watch::new(ram.memory(), &wake)?);
        let crew = Crew::new(vm.clone(), ram.memory().clone(), watch.clone(), buses, vcpus, theirs)?;
        let mut machine = Machine {
            crew,
            devices,
            vm,
            watch,
            ram,
            config: config.clone(),
            files,
            model,
            tsc_khz,
            birth: Vec::new(),
            cleared_pages: 0,
            loaded: None,
            state_bytes: 0,
            wake,
            backpressure: false,
            timings: CutTimings::default(),
        };
        machine.birth = machine.save()?;
        Ok(machine)
    }

    /// Everything that must be equal on both hosts, as keys and values. A host that lacks something says by which key.
    #[must_use]
    pub fn layout(&self) -> Vec<(String, String)> {
        let text = |key: &str, value: String| (key.to_owned(), value);
        let mut layout = vec![
            text("state_format", sections::FORMAT.to_string()),
            text("vcpus", self.config.vcpus.to_string()),
            text("memory_mib", self.config.memory_mib.to_string()),
            text("tsc_khz", self.tsc_khz.to_string()),
        ];
        layout.extend([
            text("kernel", self.files.kernel.to_string()),
            text("initrd", self.files.initrd.map_or_else(|| "none".to_owned(), |initrd| initrd.to_string())),
            text("cmdline", boot::Content::of(self.config.cmdline.trim()).to_string()),
        ]);
        layout.extend(self.model.layout());
        for (index, nic) in self.config.nics.iter().enumerate() {
            let mac: Vec<String> = nic.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            layout.push((format!("nic{index}.mac"), mac.join(":")));
        }
        for (index, (config, disk)) in self.config.disks.iter().zip(&self.devices.disks).enumerate() {
            layout.extend([
                (format!("disk{index}.serial"), config.serial.clone()),
                (format!("disk{index}.bytes"), disk.bytes().to_string()),
                (format!("disk{index}.block_bytes"), disk.block_bytes().to_string()),
                (format!("disk{index}.read_only"), config.read_only.to_string()),
            ]);
        }
        for device in self.devices.all() {
            let kind = device.kind();
            layout.push((format!("device{}", device.id().0), format!("{} {}", kind.name, kind.state_version)));
        }
        layout
    }

    /// Puts the machine into the state of a cold boot: memory zeroed, kernel loaded, vCPU 0 at its entry. Stays paused,
    /// its devices stopped.
    ///
    /// # Errors
    /// The kernel cannot be read or is none; the machine is running.
    pub fn boot(&mut self) -> Result<(), Error> {
        self.load_birth()?;
        while !self.continue_reset()? {}
        Ok(())
    }

    /// Begins a reset: a [`boot`](Machine::boot) that takes nothing back of what the guest said at its console before, and that is
    /// done bit by bit by [`continue_reset`](Machine::continue_reset), as a large guest takes a while. What is saved meanwhile says that
    /// a reset is wanted: whoever resumes that is told [`MachineEvent::Reset`], and does it again.
    ///
    /// # Errors
    /// The machine is running.
    pub fn begin_reset(&mut self) -> Result<(), Error> {
        let unreleased = self.devices.serial_mut().take_unreleased();
        self.load_birth()?;
        self.devices.serial_mut().put_back(unreleased);
        if let Some(vcpu) = self.crew.paused().first_mut() {
            vcpu.await_reset();
        }
        boot::prefetch(&self.config);
        Ok(())
    }

    /// Does a part of a reset that has begun, which takes some milliseconds and changes at most [`RESET_PAGES`](crate::RESET_PAGES) pages. Returns
    /// whether it is done; the last part loads the kernel.
    ///
    /// # Errors
    /// As `boot`.
    pub fn continue_reset(&mut self) -> Result<bool, Error> {
        if self.cleared_pages < self.ram.pages() {
            self.cleared_pages = self.ram.clear(self.cleared_pages)?;
            return Ok(false);
        }
        if boot::Files::read(&self.config)? != self.files {
            log::warn!(
                "kernel or initrd is not the one that this process began with: the other node may boot another one"
            );
        }
        let entry = boot::load(&self.config, self.devices.slots(), self.ram.memory())?;
        self.crew.paused().first_mut().map_or(Ok(()), |vcpu| vcpu.begin_at(entry))?;
        Ok(true)
    }

    fn load_birth(&mut self) -> Result<(), Error> {
        let birth = std::mem::take(&mut self.birth);
        let loaded = self.load(&birth);
        self.birth = birth;
        self.loaded = None;
        self.cleared_pages = 0;
        loaded.map_err(|error| Error::Reset(Box::new(error)))
    }

    /// Puts saved state into vCPUs, interrupt controllers, timers and devices. Memory was put in place by the caller and is
    /// left exactly as it is. Any number of times, on a new machine as on one that has run; stays paused, its devices stopped.
    ///
    /// # Errors
    /// State that does not fit; the machine can then only be loaded anew or booted.
    pub fn load(&mut self, state: &[u8]) -> Result<(), LoadError> {
        image::load(self, state)
    }

    /// Saves what was just loaded and compares: the rehearsal of a promotion. Time that has passed is no difference.
    ///
    /// # Errors
    /// The differences, by part and field.
    pub fn read_back(&mut self, state: &[u8]) -> Result<(), LoadError> {
        image::read_back(self, state)
    }

    /// Lets the guest's time go on from where it was saved, and not from when that was loaded: a promotion loads the state
    /// before it knows whether the guest may run. To be called just before that.
    ///
    /// # Errors
    /// KVM refuses it.
    pub fn set_time(&mut self) -> Result<(), Error> {
        image::set_time(self)
    }

    /// Lets the vCPUs run. Does nothing if they do.
    pub fn run(&mut self) {
        self.loaded = None;
        self.crew.run();
    }

    /// Stops the vCPUs and collects what the guest has shown up to here. If they are stopped already, only collects.
    ///
    /// # Errors
    /// A vCPU does not stop.
    pub fn pause(&mut self, outputs: &mut Vec<Output>) -> Result<(), Error> {
        let begun = Instant::now();
        let was_running = self.crew.is_running();
        self.crew.pause()?;
        if was_running {
            self.timings.pause = begun.elapsed();
        }
        self.devices.all_mut().for_each(|device| device.collect(outputs));
        Ok(())
    }

    /// The state of everything but memory. Only while paused.
    ///
    /// # Errors
    /// KVM does not give it; the machine is running.
    pub fn save(&mut self) -> Result<Vec<u8>, Error> {
        let begun = Instant::now();
        let state = image::save(self)?;
        self.timings.save = begun.elapsed();
        Ok(state)
    }

    /// Adds the pages written since the last call, by the guest or by this program, to `into`.
    ///
    /// # Errors
    /// KVM does not give its log.
    pub fn harvest(&mut self, into: &mut PageSet) -> Result<(), Error> {
        let begun = Instant::now();
        self.ram.harvest(&self.vm, into)?;
        self.check_memory()?;
        self.timings.harvest = begun.elapsed();
        Ok(())
    }

    /// Appends the content of pages to `into`.
    ///
    /// # Errors
    /// There are no such pages.
    pub fn copy_pages(&self, run: PageRun, into: &mut Vec<u8>) -> Result<(), Error> {
        self.ram.copy_pages(run, into)?;
        self.check_memory()
    }

    /// Replaces the content of pages.
    ///
    /// # Errors
    /// There are no such pages, or `data` does not have their length.
    pub fn write_pages(&self, run: PageRun, data: &[u8]) -> Result<(), Error> {
        self.ram.write_pages(run, data)?;
        self.check_memory()
    }

    /// Nothing that was made of a lost page may leave this machine.
    fn check_memory(&self) -> Result<(), Error> {
        if self.watch.is_void() { Err(Error::MemoryVoid) } else { Ok(()) }
    }

    /// What the hardware has lost since this was asked last. To be asked while paused: a page may be told of more than once.
    #[must_use]
    pub fn take_lost(&self) -> LostPages {
        let mut lost = LostPages { void: self.watch.is_void(), ..LostPages::default() };
        for loss in self.watch.take() {
            let Some(page) = self.ram.page_at(loss.address) else { continue };
            if loss.touched { lost.touched.push(page) } else { lost.untouched.push(page) }
        }
        lost
    }

    /// Lets the guest run on although pages are lost that nobody has touched: it stops as soon as it touches one.
    pub fn leave_lost(&self) {
        self.watch.replaced(&[]);
    }

    /// Puts pages of zeroes in the place of lost ones. Only while paused; the guest must not run before they have their content
    /// from [`put_back`](Machine::put_back).
    ///
    /// # Errors
    /// There is no memory to be had.
    pub fn replace_lost(&mut self, pages: &[u64]) -> Result<(), Error> {
        if self.crew.is_running() {
            return Err(Error::Running("replace lost pages"));
        }
        pages.iter().try_for_each(|page| self.ram.replace(*page))?;
        self.watch.replaced(&self.ram.addresses(pages));
        Ok(())
    }

    /// Gives a replaced page the content that it had. It is not written to by that: whoever holds the page holds it as it is.
    ///
    /// # Errors
    /// There is no such page, or `data` does not have its length.
    pub fn put_back(&mut self, page: u64, data: &[u8]) -> Result<(), Error> {
        self.ram.put_back(page, data)?;
        self.watch.replaced(&self.ram.addresses(&[page]));
        self.check_memory()
    }

    /// Pages of guest memory.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.ram.pages()
    }

    /// What the event loop must poll, edge-triggered. The same for as long as the machine lives.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        let own = Source { fd: self.wake.as_raw_fd(), id: VCPUS, interest: Interest::Readable };
        self.devices.all().flat_map(Device::sources).chain([own]).collect()
    }

    /// Does what there is to do at a source that is ready.
    pub fn service(&mut self, id: SourceId, outputs: &mut Vec<Output>, events: &mut Vec<MachineEvent>) {
        if id == VCPUS {
            // Empty if the event was taken with the one before.
            let _ = self.wake.read();
            events.extend(self.crew.take_events());
            events.extend(self.watch.has_notes().then_some(MachineEvent::MemoryLost));
            return;
        }
        let Some(device) = self.devices.find(id.device) else { return };
        let mut device_events = Vec::new();
        device.service(id, outputs, &mut device_events);
        events.extend(device_events.into_iter().map(|event| match event {
            DeviceEvent::Reset => MachineEvent::Reset,
            DeviceEvent::PowerOff => MachineEvent::Shutdown,
            DeviceEvent::Panic => MachineEvent::Panic,
            DeviceEvent::CrashKernel => MachineEvent::CrashKernel,
            DeviceEvent::WatchdogExpired => MachineEvent::WatchdogExpired,
            DeviceEvent::DiskError(fault) => MachineEvent::DiskError(fault),
        }));
    }

    /// Performs an output. After the last one of a batch comes [`signal`](Machine::signal).
    pub fn release(&mut self, output: Released<Output>) {
        if !self.watch.is_void() {
            self.devices.release(output);
        }
    }

    /// Tells the guest of what was released.
    pub fn signal(&mut self) {
        self.devices.all_mut().for_each(Device::signal);
    }

    /// Lets the devices serve the guest: after a boot, or when a loaded machine is to go on (not in a rehearsal). What was
    /// taken and not finished before the save is done again.
    pub fn start_devices(&mut self) {
        self.devices.all_mut().for_each(Device::start);
    }

    /// Makes the devices stop serving the guest: no frame is received, nothing is taken.
    pub fn stop_devices(&mut self) {
        self.devices.all_mut().for_each(Device::stop);
    }

    /// Tells the network where the guest is now. The announcement is output like any other. After `start_devices`.
    pub fn announce(&mut self, outputs: &mut Vec<Output>) {
        self.devices.nets.iter_mut().for_each(|net| net.announce(outputs));
    }

    /// Whether held output has reached its limit, so that the guest must wait.
    pub fn set_backpressure(&mut self, full: bool) {
        if std::mem::replace(&mut self.backpressure, full) != full {
            self.devices.all_mut().for_each(|device| device.set_backpressure(full));
        }
    }

    /// Requests that were handed to the disks and are not completed.
    #[must_use]
    pub fn disk_in_flight(&self) -> usize {
        self.devices.disks.iter().map(Device::in_flight).sum()
    }

    /// Whether a disk waits for a request that has failed: the guest is not to run.
    #[must_use]
    pub fn is_disk_stuck(&self) -> bool {
        self.devices.disks.iter().any(kemari_devices::Disk::is_stuck)
    }

    /// Tries again what has failed.
    pub fn retry_disks(&mut self) {
        self.devices.disks.iter_mut().for_each(kemari_devices::Disk::retry);
    }

    /// Asks the guest to shut down: presses the power button or, if the guest does not listen to that, Ctrl-Alt-Del.
    pub fn ask_to_shut_down(&mut self) {
        self.devices.ask_to_shut_down();
    }

    /// How long the steps of the last checkpoint took.
    #[must_use]
    pub fn timings(&self) -> CutTimings {
        self.timings
    }

    /// Counters of the network cards.
    #[must_use]
    pub fn net_stats(&self) -> Vec<NetStats> {
        self.devices.nets.iter().map(kemari_devices::Net::stats).collect()
    }

    /// Whether the network cards keep what comes for the guest until the devices are started, which then give it to the guest, if
    /// that is soon. A load ends it.
    pub fn set_listening(&mut self, listening: bool) {
        self.devices.nets.iter_mut().for_each(|net| net.set_listening(listening));
    }

    /// Counters of the disks.
    #[must_use]
    pub fn disk_stats(&self) -> Vec<DiskStats> {
        self.devices.disks.iter().map(kemari_devices::Disk::stats).collect()
    }

    /// Counters of the serial port.
    #[must_use]
    pub fn console_stats(&self) -> ConsoleStats {
        self.devices.serial().stats()
    }
}

#[cfg(test)]
#[path = "../tests/common/elf.rs"]
mod elf;

/// A machine with nothing in it, for tests; none without KVM.
#[cfg(test)]
pub(crate) fn bare() -> Option<Machine> {
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        assert!(std::env::var_os("CI").is_none(), "/dev/kvm cannot be used, and CI must not skip");
        eprintln!("SKIPPED: /dev/kvm cannot be used");
        return None;
    }
    let room = tempfile::tempdir().expect("a directory");
    let kernel = room.path().join("kernel");
    std::fs::write(&kernel, elf::elf(&[(elf::ENTRY, &[0xf4])])).expect("written");
    let config = MachineConfig {
        vcpus: 2,
        memory_mib: 16,
        kernel,
        initrd: None,
        cmdline: String::new(),
        nics: Vec::new(),
        disks: Vec::new(),
        console: crate::ConsoleConfig { sink: crate::Sink::None, hold: false },
        watchdog: true,
    };
    Some(Machine::new(&config).expect("a machine"))
}
