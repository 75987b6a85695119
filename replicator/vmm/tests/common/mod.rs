//! Tiny guests, made by hand, and machines that run them.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod elf;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kemari_core::{PAGE_SIZE, PageRun, PageSet};
use kemari_vmm::{ConsoleConfig, Machine, MachineConfig, MachineEvent, Output, Sink};
use tempfile::TempDir;

pub(crate) use self::elf::{ENTRY, elf};

pub(crate) const MEMORY_MIB: u64 = 16;

/// Writes a counter to the first word of page after page from 2 MiB to 4 MiB, for ever:
/// `mov edi,2M; xor ecx,ecx; 1: inc ecx; mov [edi],ecx; add edi,4096; cmp edi,4M; jb 1b; mov edi,2M; jmp 1b`.
pub(crate) const COUNTER: &[u8] = &[
    0xbf, 0, 0, 0x20, 0, 0x31, 0xc9, 0x41, 0x89, 0x0f, 0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff, 0, 0, 0x40, 0, 0x72,
    0xef, 0xbf, 0, 0, 0x20, 0, 0xeb, 0xe8,
];
/// Pages that [`COUNTER`] writes to.
pub(crate) const COUNTER_PAGES: std::ops::Range<u64> = 512..1024;

/// Whether this host has KVM. Without, the test is skipped, but not in CI.
pub(crate) fn has_kvm() -> bool {
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "/dev/kvm cannot be used, and CI must not skip");
    eprintln!("SKIPPED: /dev/kvm cannot be used");
    false
}

/// A machine and the directory with its files.
pub(crate) struct Guest {
    pub(crate) machine: Machine,
    pub(crate) dir: TempDir,
}

pub(crate) fn config(kernel: PathBuf, vcpus: u8) -> MachineConfig {
    MachineConfig {
        vcpus,
        memory_mib: MEMORY_MIB,
        kernel,
        initrd: None,
        cmdline: "quiet".to_owned(),
        nics: Vec::new(),
        disks: Vec::new(),
        console: ConsoleConfig { sink: Sink::None, hold: false },
        watchdog: false,
    }
}

/// A machine that has not booted, whose kernel is made of these pieces.
pub(crate) fn unbooted(pieces: &[(u64, &[u8])], vcpus: u8) -> Guest {
    let dir = tempfile::tempdir().expect("a directory");
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, elf(pieces)).expect("written");
    let machine = Machine::new(&config(kernel, vcpus)).expect("a machine");
    Guest { machine, dir }
}

/// A machine that has booted and is paused.
pub(crate) fn booted(pieces: &[(u64, &[u8])], vcpus: u8) -> Guest {
    let mut guest = unbooted(pieces, vcpus);
    guest.machine.boot().expect("booted");
    guest.machine.start_devices();
    guest
}

impl Guest {
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.machine.run();
        std::thread::sleep(time);
        self.pause();
    }

    /// Lets the guest run until it has counted beyond `count`: on a busy machine that may take a while.
    pub(crate) fn run_past(&mut self, count: u32) {
        let begun = std::time::Instant::now();
        while self.count() <= count {
            assert!(begun.elapsed() < Duration::from_secs(10), "the guest does not run");
            self.run_for(Duration::from_millis(20));
        }
    }

    pub(crate) fn pause(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.machine.pause(&mut outputs).expect("paused");
        outputs
    }

    /// Resets the guest.
    pub(crate) fn reset(&mut self) {
        self.machine.begin_reset().expect("begun");
        while !self.machine.continue_reset().expect("a part of it") {}
    }

    pub(crate) fn memory(&self) -> Vec<u8> {
        let mut memory = Vec::new();
        let all = PageRun { first: 0, count: self.machine.pages() };
        self.machine.copy_pages(all, &mut memory).expect("copied");
        memory
    }

    pub(crate) fn write_memory(&self, memory: &[u8]) {
        self.machine.write_pages(PageRun { first: 0, count: self.machine.pages() }, memory).expect("written");
    }

    pub(crate) fn word(&self, address: u64) -> u32 {
        let mut page = Vec::new();
        let run = PageRun { first: address / PAGE_SIZE as u64, count: 1 };
        self.machine.copy_pages(run, &mut page).expect("copied");
        let at = address as usize % PAGE_SIZE;
        u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"))
    }

    pub(crate) fn harvest(&mut self) -> PageSet {
        let mut dirty = PageSet::empty(self.machine.pages());
        self.machine.harvest(&mut dirty).expect("harvested");
        dirty
    }

    /// The highest number that [`COUNTER`] has written.
    pub(crate) fn count(&self) -> u32 {
        COUNTER_PAGES.map(|page| self.word(page * PAGE_SIZE as u64)).max().expect("pages")
    }

    /// Lets the guest run until it has something to tell.
    pub(crate) fn run_until_event(&mut self, limit: Duration) -> Vec<MachineEvent> {
        self.machine.run();
        let begun = Instant::now();
        let mut events = Vec::new();
        while events.is_empty() && begun.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(1));
            for source in self.machine.sources() {
                self.machine.service(source.id, &mut Vec::new(), &mut events);
            }
        }
        events
    }
}

/// Pages whose content differs.
pub(crate) fn changed(before: &[u8], after: &[u8]) -> Vec<u64> {
    let pages = before.chunks(PAGE_SIZE).zip(after.chunks(PAGE_SIZE)).enumerate();
    pages.filter(|(_, (before, after))| before != after).map(|(page, _)| page as u64).collect()
}
