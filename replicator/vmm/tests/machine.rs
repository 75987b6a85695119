//! Machines on the real KVM: they run, stop, are saved, loaded, reset, and every page they write is noticed.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{COUNTER, COUNTER_PAGES, ENTRY, Guest, booted, changed, has_kvm, unbooted};
use kemari_core::PageRun;
use kemari_vmm::{ConsoleConfig, Error, LoadError, Machine, MachineConfig, MachineEvent, RESET_PAGES, Sink, inspect};

const A_WHILE: Duration = Duration::from_millis(50);

/// Names the directory in which the other process finds what to load.
const IMAGE: &str = "KEMARI_TEST_IMAGE";

#[test]
fn it_runs_and_stands_still() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 1);
    guest.run_past(0);
    let (count, memory) = (guest.count(), guest.memory());
    std::thread::sleep(A_WHILE);
    assert!(memory == guest.memory(), "a paused guest ran");
    guest.run_past(count);
}

#[test]
fn every_page_that_changed_was_noticed() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 1);
    guest.harvest();
    let mut before = guest.memory();
    let begun = Instant::now();
    let (mut rounds, mut progress) = (0, 0);
    while begun.elapsed() < Duration::from_secs(3) {
        guest.run_for(Duration::from_micros(500 + rounds % 7 * 400));
        guest.machine.save().expect("saved");
        let dirty = guest.harvest();
        let after = guest.memory();
        let changed = changed(&before, &after);
        progress += u32::from(!changed.is_empty());
        for page in changed {
            assert!(dirty.contains(page), "page {page} changed unnoticed in round {rounds}");
        }
        before = after;
        rounds += 1;
    }
    assert!(guest.harvest().is_empty(), "nothing was written since");
    // On a busy host the guest does not come to run in every round.
    assert!(progress > 20, "the guest ran in {progress} of {rounds} rounds");
}

#[test]
fn what_the_vmm_writes_is_noticed() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 1);
    guest.harvest();
    guest.machine.write_pages(PageRun { first: 700, count: 2 }, &[7; 8192]).expect("written");
    let dirty = guest.harvest();
    assert_eq!(dirty.runs().collect::<Vec<_>>(), [PageRun { first: 700, count: 2 }]);
    assert!(guest.harvest().is_empty());
}

#[test]
fn a_page_that_is_put_back_was_not_written_to() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 1);
    guest.machine.write_pages(PageRun { first: 700, count: 1 }, &[7; 4096]).expect("written");
    let before = guest.memory();
    let content = &before[700 * 4096..701 * 4096];
    guest.harvest();
    guest.machine.replace_lost(&[700]).expect("there is memory");
    assert!(guest.memory()[700 * 4096..701 * 4096].iter().all(|byte| *byte == 0));
    guest.machine.put_back(700, content).expect("there is such a page");
    assert!(guest.memory() == before, "the page is as it was");
    assert!(guest.harvest().is_empty(), "the standby has the page as it is");
    assert!(matches!(guest.machine.put_back(guest.machine.pages(), content), Err(Error::NoSuchPages { .. })));
    guest.machine.run();
}

#[test]
fn pages_that_do_not_exist_are_refused() {
    if !has_kvm() {
        return;
    }
    let guest = unbooted(&[(ENTRY, COUNTER)], 1);
    let pages = guest.machine.pages();
    for run in [
        PageRun { first: pages, count: 1 },
        PageRun { first: pages - 1, count: 2 },
        PageRun { first: u64::MAX, count: u64::MAX },
    ] {
        let mut into = vec![1];
        assert!(matches!(guest.machine.copy_pages(run, &mut into), Err(Error::NoSuchPages { .. })), "{run:?}");
        assert_eq!(into, [1]);
    }
    let short = guest.machine.write_pages(PageRun { first: 0, count: 2 }, &[0; 4096]);
    assert!(matches!(short, Err(Error::PageData { .. })));
}

/// Writes what a standby would hold.
fn write_image(guest: &mut Guest, state: &[u8], dir: &Path) {
    std::fs::write(dir.join("state"), state).expect("written");
    std::fs::write(dir.join("memory"), guest.memory()).expect("written");
}

fn load_image(guest: &mut Guest, dir: &Path) -> Vec<u8> {
    let state = std::fs::read(dir.join("state")).expect("read");
    let memory = std::fs::read(dir.join("memory")).expect("read");
    guest.write_memory(&memory);
    guest.machine.load(&state).expect("loaded");
    guest.machine.read_back(&state).expect("read back equal");
    assert!(guest.memory() == memory, "to load wrote to memory");
    state
}

#[test]
fn a_guest_goes_on_in_another_process() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 1);
    guest.run_for(A_WHILE);
    let state = guest.machine.save().expect("saved");
    let dir = tempfile::tempdir().expect("a directory");
    write_image(&mut guest, &state, dir.path());
    let other = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_other_process", "--nocapture"])
        .env(IMAGE, dir.path())
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&other.stdout);
    assert!(other.status.success(), "{text}\n{}", String::from_utf8_lossy(&other.stderr));
    assert!(text.contains("it went on"), "{text}");
}

/// Started by the test above.
#[test]
fn the_other_process() {
    let Some(dir) = std::env::var_os(IMAGE) else { return };
    let mut guest = unbooted(&[(ENTRY, COUNTER)], 1);
    load_image(&mut guest, Path::new(&dir));
    let count = guest.count();
    guest.run_for(A_WHILE);
    // It must go on from where it was, not begin anew: the counter is in a register.
    assert!(guest.count() > count, "{} after {count}", guest.count());
    println!("it went on from {count} to {}", guest.count());
}

#[test]
fn a_machine_that_has_run_can_be_loaded() {
    if !has_kvm() {
        return;
    }
    let mut first = booted(&[(ENTRY, COUNTER)], 1);
    let mut second = booted(&[(ENTRY, COUNTER)], 1);
    let dir = tempfile::tempdir().expect("a directory");
    for _ in 0..3 {
        first.run_for(A_WHILE);
        second.run_for(A_WHILE);
        let state = first.machine.save().expect("saved");
        write_image(&mut first, &state, dir.path());
        load_image(&mut second, dir.path());
        let count = first.count();
        second.run_past(count);
        std::mem::swap(&mut first, &mut second);
    }
}

/// Registers kvmclock at 0x9000 and asks for the time of day at 0xa000, then counts.
fn clock_reader() -> Vec<u8> {
    let wrmsr = |msr: u32, value: u32| {
        let mut code = vec![0xb9];
        code.extend(msr.to_le_bytes());
        code.push(0xb8);
        code.extend(value.to_le_bytes());
        code.extend([0xba, 0, 0, 0, 0, 0x0f, 0x30]);
        code
    };
    [wrmsr(0x4b56_4d01, 0x9001), wrmsr(0x4b56_4d00, 0xa000), COUNTER.to_vec()].concat()
}

#[test]
fn loading_leaves_memory_as_it_is() {
    if !has_kvm() {
        return;
    }
    let code = clock_reader();
    let mut guest = booted(&[(ENTRY, &code)], 1);
    guest.run_for(A_WHILE);
    assert_ne!(guest.word(0xa000), 0, "KVM did not write the time of day");
    assert_ne!(guest.word(0x9000), 0, "KVM did not write the clock");
    let state = guest.machine.save().expect("saved");
    let memory = guest.memory();
    let mut standby = unbooted(&[(ENTRY, &code)], 1);
    for _ in 0..2 {
        standby.write_memory(&memory);
        standby.machine.load(&state).expect("loaded");
        assert_eq!(changed(&memory, &standby.memory()), [] as [u64; 0]);
        standby.machine.read_back(&state).expect("equal");
        assert_eq!(changed(&memory, &standby.memory()), [] as [u64; 0]);
        standby.run_for(A_WHILE);
        assert!(standby.count() > guest.count());
    }
}

/// The first vCPU starts the second, which counts at 0x9000 in real mode, and counts at 0xa000 itself.
const STARTER: &[u8] = &[
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x0c, 0x00, // mov dword [ICR], INIT to all others
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x08, 0x46, 0x0c, 0x00, // mov dword [ICR], start at page 8, all others
    0xff, 0x05, 0x00, 0xa0, 0x00, 0x00, 0xeb, 0xf8, // 1: inc dword [0xa000]; jmp 1b
];
const STARTED: &[u8] = &[0x66, 0xff, 0x06, 0x00, 0x90, 0xeb, 0xf9]; // 1: inc dword [0x9000]; jmp 1b

#[test]
fn two_vcpus_are_stopped_saved_and_loaded() {
    if !has_kvm() {
        return;
    }
    let pieces = [(ENTRY, STARTER), (0x8000, STARTED)];
    let mut guest = booted(&pieces, 2);
    guest.run_for(A_WHILE * 4);
    let counts = |guest: &Guest| [guest.word(0x9000), guest.word(0xa000)];
    let before = counts(&guest);
    assert!(before.iter().all(|count| *count > 0), "{before:?}");
    let state = guest.machine.save().expect("saved");
    let dir = tempfile::tempdir().expect("a directory");
    write_image(&mut guest, &state, dir.path());
    let mut other = unbooted(&pieces, 2);
    load_image(&mut other, dir.path());
    other.run_for(A_WHILE * 4);
    let after = counts(&other);
    assert!(after[0] > before[0] && after[1] > before[1], "{before:?} {after:?}");
}

#[test]
fn it_can_be_stopped_at_once() {
    if !has_kvm() {
        return;
    }
    for vcpus in [1, 2] {
        let mut guest = booted(&[(ENTRY, COUNTER)], vcpus);
        for _ in 0..500 {
            guest.run_for(Duration::ZERO);
        }
        guest.run_past(0);
    }
}

#[test]
fn a_reset_begins_anew() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 1);
    let fresh = guest.memory();
    guest.run_for(A_WHILE);
    guest.harvest();
    let before = guest.memory();
    guest.reset();
    let after = guest.memory();
    assert_eq!(changed(&fresh, &after), [] as [u64; 0]);
    let dirty = guest.harvest();
    assert!(changed(&before, &after).into_iter().all(|page| dirty.contains(page)), "the reset wrote unnoticed");
    guest.machine.start_devices();
    guest.run_past(0);
}

/// `lidt [0]` of an empty table, `ud2`: no exception can be delivered.
const TRIPLE_FAULT: &[u8] = &[0x0f, 0x01, 0x1d, 0, 0, 0, 0, 0x0f, 0x0b];

#[test]
fn a_triple_fault_is_told_also_after_a_load() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, TRIPLE_FAULT)], 1);
    assert_eq!(guest.run_until_event(Duration::from_secs(5)), [MachineEvent::TripleFault]);
    guest.pause();
    // The checkpoint that is cut before the reset has been seen to.
    let state = guest.machine.save().expect("saved");
    let mut standby = unbooted(&[(ENTRY, TRIPLE_FAULT)], 1);
    standby.write_memory(&guest.memory());
    standby.machine.load(&state).expect("loaded");
    assert_eq!(standby.run_until_event(Duration::from_secs(5)), [MachineEvent::TripleFault]);
    standby.pause();
    standby.reset();
    assert_eq!(standby.run_until_event(Duration::from_secs(5)), [MachineEvent::TripleFault]);
}

/// `mov al,0xfe; out 0x64,al`, and then a triple fault.
fn reset_and_fault() -> Vec<u8> {
    [&[0xb0, 0xfe, 0xe6, 0x64], TRIPLE_FAULT].concat()
}

#[test]
fn what_a_guest_did_before_a_load_is_not_told_of_the_next() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, &reset_and_fault())], 1);
    guest.machine.run();
    // The keyboard controller and the vCPU have both something to say.
    std::thread::sleep(A_WHILE * 4);
    guest.pause();
    guest.reset();
    let mut events = Vec::new();
    for source in guest.machine.sources() {
        guest.machine.service(source.id, &mut Vec::new(), &mut events);
    }
    assert_eq!(events, [], "of a guest that has not run yet");
}

#[test]
fn whoever_resumes_a_guest_within_its_reset_does_that_again() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 2);
    guest.run_for(A_WHILE);
    guest.machine.begin_reset().expect("begun");
    assert!(!guest.machine.continue_reset().expect("a part of it"));
    let state = guest.machine.save().expect("saved");
    let mut standby = unbooted(&[(ENTRY, COUNTER)], 2);
    standby.write_memory(&guest.memory());
    standby.machine.load(&state).expect("loaded");
    standby.machine.read_back(&state).expect("equal");
    standby.machine.start_devices();
    assert_eq!(standby.run_until_event(Duration::from_secs(5)), [MachineEvent::Reset]);
    standby.pause();
    standby.reset();
    standby.machine.start_devices();
    standby.run_past(0);
    while !guest.machine.continue_reset().expect("a part of it") {}
    guest.machine.start_devices();
    guest.run_past(0);
}

#[test]
fn a_part_of_a_reset_is_no_more_than_a_checkpoint_carries_at_once() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, common::elf(&[(ENTRY, COUNTER)])).expect("written");
    let mut config = common::config(kernel, 1);
    config.memory_mib = 128;
    let mut guest = Guest { machine: Machine::new(&config).expect("a machine"), dir };
    let pages = guest.machine.pages();
    guest.write_memory(&vec![0x5a; pages as usize * 4096]);
    guest.harvest();
    guest.machine.begin_reset().expect("begun");
    let (mut parts, mut changed) = (0, 0);
    while !guest.machine.continue_reset().expect("a part of it") {
        let dirty = guest.harvest().count();
        assert!(dirty <= RESET_PAGES + 64, "{dirty} pages");
        (parts, changed) = (parts + 1, changed + dirty);
    }
    assert!(changed >= pages && parts >= pages / RESET_PAGES, "{changed} of {pages} pages in {parts} parts");
    let memory = guest.memory();
    assert!(memory[8 << 20..].iter().all(|byte| *byte == 0), "not all was cleared");
}

/// `mov edx,0x505; in al,dx; mov [0x9000],al; mov al,EVENT; out dx,al; 1: hlt; jmp 1b`.
fn panics(event: u8) -> Vec<u8> {
    vec![0xba, 0x05, 0x05, 0, 0, 0xec, 0xa2, 0, 0x90, 0, 0, 0xb0, event, 0xee, 0xf4, 0xeb, 0xfd]
}

#[test]
fn a_panic_is_told_and_what_the_notifier_understands_is_read() {
    if !has_kvm() {
        return;
    }
    for (event, expected) in [(1, MachineEvent::Panic), (2, MachineEvent::CrashKernel)] {
        let mut guest = booted(&[(ENTRY, &panics(event))], 1);
        assert_eq!(guest.run_until_event(Duration::from_secs(5)), [expected]);
        guest.pause();
        assert_eq!(guest.word(0x9000) & 0xff, 3);
    }
}

/// Sets the watchdog to one tick and going, and never comes by: `mov edx,0x610; mov ax,1; out dx,ax; mov edx,0x614; mov al,1; out dx,al;
/// 1: jmp 1b`.
const LAZY: &[u8] =
    &[0xba, 0x10, 0x06, 0, 0, 0x66, 0xb8, 1, 0, 0x66, 0xef, 0xba, 0x14, 0x06, 0, 0, 0xb0, 1, 0xee, 0xeb, 0xfe];

#[test]
fn a_guest_that_does_not_come_by_at_its_watchdog_is_told_on() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, common::elf(&[(ENTRY, LAZY)])).expect("written");
    let mut config = common::config(kernel, 1);
    let layout = |config: &MachineConfig| Machine::new(config).expect("a machine").layout();
    let without = layout(&config);
    config.watchdog = true;
    assert_eq!(layout(&config).len(), without.len() + 1, "both nodes must have it or not");
    let mut guest = Guest { machine: Machine::new(&config).expect("a machine"), dir };
    guest.machine.boot().expect("booted");
    guest.machine.start_devices();
    assert_eq!(guest.run_until_event(Duration::from_secs(10)), [MachineEvent::WatchdogExpired]);
    guest.pause();
}

#[test]
fn what_was_said_before_a_reset_is_said_after_it() {
    if !has_kvm() {
        return;
    }
    // `mov edx,0x3f8; mov al,'!'; out dx,al`, and a reset.
    let code = [&[0xba, 0xf8, 3, 0, 0, 0xb0, b'!', 0xee][..], &reset_and_fault()].concat();
    let dir = tempfile::tempdir().expect("a directory");
    let (kernel, console) = (dir.path().join("kernel"), dir.path().join("console"));
    std::fs::write(&kernel, common::elf(&[(ENTRY, &code)])).expect("written");
    let mut config = common::config(kernel, 1);
    config.console = ConsoleConfig { sink: Sink::File(console), hold: true };
    let mut guest = Guest { machine: Machine::new(&config).expect("a machine"), dir };
    guest.machine.boot().expect("booted");
    guest.machine.start_devices();
    guest.machine.run();
    std::thread::sleep(A_WHILE * 4);
    assert_eq!(guest.pause().len(), 1, "what the gate holds");
    assert_eq!(guest.machine.console_stats().held_bytes, 1);
    guest.reset();
    guest.machine.start_devices();
    assert_eq!(guest.pause().len(), 1, "what the gate is given anew");
    assert_eq!(guest.machine.console_stats().held_bytes, 1);
    guest.machine.boot().expect("booted");
    assert_eq!(guest.machine.console_stats().held_bytes, 0, "another guest does not say it");
}

/// `mov eax,0xd8000000; jmp eax`: to where no memory is.
const LOST: &[u8] = &[0xb8, 0, 0, 0, 0xd8, 0xff, 0xe0];

#[test]
fn what_kvm_cannot_go_on_with_is_told() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, LOST)], 1);
    let events = guest.run_until_event(Duration::from_secs(5));
    let [MachineEvent::InternalError(text)] = &events[..] else { panic!("{events:?}") };
    assert!(text.contains("vcpu0") && text.contains("rip 0xd8000000"), "{text}");
    guest.pause();
}

/// `paddd mm0,[0xd8000000]`: where only KVM's emulator could do it, which knows no MMX.
const NOT_EMULATED: &[u8] = &[0x0f, 0xfe, 0x05, 0, 0, 0, 0xd8];

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_shown() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, NOT_EMULATED)], 1);
    let events = guest.run_until_event(Duration::from_secs(5));
    let [MachineEvent::InternalError(text)] = &events[..] else { panic!("{events:?}") };
    assert!(text.contains("the instruction [0f, fe, 05, 00, 00, 00, d8") && text.contains("rip 0x100000 "), "{text}");
    guest.pause();
}

#[test]
fn state_that_does_not_fit_is_refused_and_named() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 1);
    guest.run_for(A_WHILE);
    let state = guest.machine.save().expect("saved");
    let mut two = unbooted(&[(ENTRY, COUNTER)], 2);
    assert!(matches!(two.machine.load(&state), Err(LoadError::Missing { section }) if section == "vcpu1"));
    let of_two = two.machine.save().expect("saved");
    assert!(matches!(guest.machine.load(&of_two), Err(LoadError::Unknown { section }) if section == "vcpu1"));
    assert!(matches!(guest.machine.load(&[]), Err(LoadError::Malformed(_))));
    for length in (0..state.len()).step_by(97) {
        assert!(guest.machine.load(&state[..length]).is_err(), "cut at {length}");
    }
    // Nothing of all that was used: it goes on.
    let count = guest.count();
    guest.run_past(count);
    guest.machine.run();
    assert!(matches!(guest.machine.save(), Err(Error::Running(_))));
    assert!(guest.machine.load(&state).is_err());
}

#[test]
fn a_difference_in_what_is_read_back_is_named() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 1);
    guest.run_for(A_WHILE);
    let earlier = guest.machine.save().expect("saved");
    guest.run_for(A_WHILE);
    let later = guest.machine.save().expect("saved");
    guest.machine.load(&earlier).expect("loaded");
    guest.machine.read_back(&earlier).expect("equal");
    let Err(LoadError::ReadBack(differences)) = guest.machine.read_back(&later) else { panic!("they are not equal") };
    assert!(differences.iter().any(|field| field == "vcpu0 regs"), "{differences:?}");
}

#[test]
fn two_machines_of_a_host_have_one_layout() {
    if !has_kvm() {
        return;
    }
    let layouts = [1, 1, 2].map(|vcpus| unbooted(&[(ENTRY, COUNTER)], vcpus).machine.layout());
    assert_eq!(layouts[0], layouts[1]);
    assert_ne!(layouts[0], layouts[2]);
    let mut keys: Vec<_> = layouts[0].iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), layouts[0].len(), "a key is there twice");
    assert!(keys.len() < 200, "{} keys", keys.len());
    for (key, value) in &layouts[0] {
        println!("{key} = {value}");
        assert!(!value.is_empty() && key.len() + value.len() < 200, "{key} = {value}");
    }
}

#[test]
fn the_kernel_is_told_what_it_must_know() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (kernel, initrd) = (dir.path().join("kernel"), dir.path().join("initrd"));
    std::fs::write(&kernel, common::elf(&[(ENTRY, COUNTER)])).expect("written");
    std::fs::write(&initrd, [0x5a; 5000]).expect("written");
    let mut config = common::config(kernel, 1);
    config.initrd = Some(initrd);
    let mut guest = Guest { machine: Machine::new(&config).expect("a machine"), dir };
    guest.machine.boot().expect("booted");
    let info: Vec<u32> = (0..14).map(|index| guest.word(0x6000 + index * 4)).collect();
    let [magic, version, _, modules, module, _, cmdline, _, rsdp, _, map, _, entries, _] = info[..] else {
        panic!("14 words")
    };
    assert_eq!((magic, version, modules, entries), (0x336e_c578, 1, 1, 3));
    let memory = guest.memory();
    assert!(memory[cmdline as usize..].starts_with(b"quiet virtio_mmio.device=4K@0xd0000000:5\0"));
    assert!(memory[rsdp as usize..].starts_with(b"RSD PTR "));
    let field = |at: u32| guest.word(u64::from(at));
    let ram_end = common::MEMORY_MIB as u32 * (1 << 20);
    assert_eq!((field(map + 48), field(map + 48 + 8), field(map + 48 + 16)), (0x10_0000, ram_end - 0x10_0000, 1));
    let (begin, bytes) = (field(module) as usize, field(module + 8) as usize);
    assert_eq!(bytes, 5000);
    assert!(begin % 4096 == 0 && memory[begin..begin + bytes].iter().all(|byte| *byte == 0x5a));
    assert!(memory[0x9_fc00..].starts_with(b"_MP_"));
}

/// A bzImage whose 32-bit code is the counter, and which needs `init_bytes` of memory from 1 MiB on.
fn bzimage(init_bytes: u32) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes()); // version
    put(0x211, &[1]); // loadflags: loaded high
    put(0x214, &0x10_0000_u32.to_le_bytes()); // code32_start
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(0x238, &255_u32.to_le_bytes()); // cmdline_size
    put(0x258, &0x10_0000_u64.to_le_bytes()); // pref_address
    put(0x260, &init_bytes.to_le_bytes()); // init_size
    // A selector is loaded, for which the descriptor table must be there.
    image.extend([0x66, 0xb8, 0x18, 0, 0x8e, 0xd8, 0x89, 0x35, 0, 0x90, 0, 0]); // mov ax,18h; mov ds,ax; mov [9000h],esi
    image.extend(COUNTER);
    image
}

#[test]
fn a_bzimage_begins_at_its_32_bit_entry() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (kernel, initrd) = (dir.path().join("kernel"), dir.path().join("initrd"));
    std::fs::write(&kernel, bzimage(4 << 20)).expect("written");
    std::fs::write(&initrd, [0x5a; 5000]).expect("written");
    let mut config = common::config(kernel.clone(), 1);
    config.initrd = Some(initrd);
    let mut guest = Guest { machine: Machine::new(&config).expect("a machine"), dir };
    guest.machine.boot().expect("booted");
    guest.run_for(A_WHILE);
    assert!(guest.count() > 0, "it did not run");
    let params = u64::from(guest.word(0x9000));
    let field = |at: u64| guest.word(params + at) as usize;
    let memory = guest.memory();
    assert!(memory[field(0x70)..].starts_with(b"RSD PTR "), "acpi_rsdp_addr");
    assert!(memory[field(0x228)..].starts_with(b"quiet\0"), "cmd_line_ptr");
    let (begin, bytes) = (field(0x218), field(0x21c));
    assert!(bytes == 5000 && memory[begin..begin + bytes].iter().all(|byte| *byte == 0x5a), "ramdisk");
    assert_eq!(field(0x1e8) & 0xff, 3, "e820_entries");
    assert_eq!((field(0x2d0 + 40), field(0x2d0 + 48), field(0x2d0 + 56)), (0x10_0000, (16 << 20) - 0x10_0000, 1));

    std::fs::write(&kernel, bzimage(64 << 20)).expect("written");
    let refusal = guest.machine.boot().expect_err("it does not fit");
    assert!(refusal.to_string().contains("needs 65 MiB"), "{refusal}");
}

#[test]
fn an_initrd_does_not_overwrite_the_kernel() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (kernel, initrd) = (dir.path().join("kernel"), dir.path().join("initrd"));
    let code = [COUNTER, &[0x90; 2 * 4096]].concat();
    std::fs::write(&kernel, common::elf(&[(ENTRY, &code)])).expect("written");
    let room = (common::MEMORY_MIB << 20) - ENTRY - 3 * 4096;
    let mut config = common::config(kernel, 1);
    config.initrd = Some(initrd.clone());
    std::fs::write(&initrd, vec![0x5a; room as usize]).expect("written");
    let mut guest = Guest { machine: Machine::new(&config).expect("a machine"), dir };
    guest.machine.boot().expect("it just fits");
    assert!(guest.memory()[ENTRY as usize..].starts_with(&code));
    std::fs::write(&initrd, vec![0x5a; room as usize + 1]).expect("written");
    let refusal = guest.machine.boot().expect_err("it does not fit").to_string();
    assert!(refusal.contains("beside the kernel") && refusal.contains("raise memory_mib"), "{refusal}");
}

#[test]
fn a_command_line_that_linux_would_cut_is_refused() {
    if !has_kvm() {
        return;
    }
    let guest = unbooted(&[(ENTRY, COUNTER)], 1);
    let mut config = common::config(guest.dir.path().join("kernel"), 1);
    config.cmdline = "x".repeat(2048);
    assert!(matches!(Machine::new(&config), Err(Error::Config { key: "cmdline", .. })));
}

/// A node finds out when it begins, not when the guest is to boot there.
#[test]
fn what_cannot_be_booted_is_refused_by_name() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (kernel, initrd) = (dir.path().join("kernel"), dir.path().join("initrd"));
    let mut config = common::config(kernel.clone(), 1);
    config.initrd = Some(initrd.clone());
    let refusal = |config: &MachineConfig| {
        let [looked, made] = [inspect::boot(config), Machine::new(config).map(drop)].map(Result::unwrap_err);
        assert_eq!(looked.to_string(), made.to_string());
        looked
    };
    let is_file =
        |error: &Error, name, at: &Path| matches!(error, Error::File { key, path, .. } if *key == name && path == at);
    let error = refusal(&config);
    assert!(is_file(&error, "kernel", &kernel) && error.to_string().contains("No such file"), "{error}");
    let mut without_note = common::elf(&[(ENTRY, COUNTER)]);
    // The type of the note.
    let at = without_note.windows(4).position(|bytes| bytes == b"Xen\0").expect("a note") - 4;
    without_note[at] = 0;
    for bad in [&b"#!/bin/sh"[..], &bzimage(64 << 20), &without_note] {
        std::fs::write(&kernel, bad).expect("written");
        assert!(matches!(refusal(&config), Error::Boot { key: "kernel", .. }));
    }
    for good in [common::elf(&[(ENTRY, COUNTER)]), bzimage(4 << 20)] {
        std::fs::write(&kernel, good).expect("written");
        assert!(is_file(&refusal(&config), "initrd", &initrd));
    }
    std::fs::write(&initrd, vec![0x5a; 17 << 20]).expect("written");
    assert!(matches!(refusal(&config), Error::Boot { key: "initrd", .. }));
    std::fs::write(&initrd, [0x5a; 5000]).expect("written");
    inspect::boot(&config).expect("good");
    let mut machine = Machine::new(&config).expect("a machine");
    std::fs::remove_file(&kernel).expect("removed");
    assert!(is_file(&machine.boot().expect_err("gone"), "kernel", &kernel));
}

/// The guest may be reset on either host: what it boots there must be the same.
#[test]
fn what_a_guest_boots_from_is_part_of_the_layout() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (kernel, initrd) = (dir.path().join("kernel"), dir.path().join("initrd"));
    std::fs::write(&kernel, common::elf(&[(ENTRY, COUNTER)])).expect("written");
    std::fs::write(&initrd, [0; 300 << 10]).expect("written");
    let config = common::config(kernel.clone(), 1);
    let layout = |config: &MachineConfig| Machine::new(config).expect("a machine").layout();
    let differs = |one: &[(String, String)], other: &[(String, String)]| {
        let pairs = one.iter().zip(other).filter(|(one, other)| one != other);
        pairs.map(|((key, _), _)| key.clone()).collect::<Vec<_>>()
    };
    let first = layout(&config);
    let mut changed = MachineConfig { cmdline: "quieter".to_owned(), ..config.clone() };
    assert_eq!(differs(&first, &layout(&changed)), ["cmdline"]);
    changed = MachineConfig { initrd: Some(initrd.clone()), ..config.clone() };
    let with_initrd = layout(&changed);
    assert_eq!(differs(&first, &with_initrd), ["initrd"]);
    let mut content = vec![0; 300 << 10];
    content[290 << 10] = 1;
    std::fs::write(&initrd, content).expect("written");
    assert_eq!(differs(&with_initrd, &layout(&changed)), ["initrd"]);
    std::fs::write(&kernel, bzimage(4 << 20)).expect("written");
    assert_eq!(differs(&first, &layout(&config)), ["kernel"]);
    // By another name it is the same.
    let elsewhere = dir.path().join("vmlinuz");
    std::fs::copy(&kernel, &elsewhere).expect("copied");
    assert_eq!(layout(&config), layout(&MachineConfig { kernel: elsewhere, ..config.clone() }));
}

#[test]
fn the_counter_is_where_the_tests_look() {
    if !has_kvm() {
        return;
    }
    let mut guest = booted(&[(ENTRY, COUNTER)], 1);
    guest.harvest();
    guest.run_for(A_WHILE);
    let dirty = guest.harvest();
    assert!(dirty.runs().any(|run| COUNTER_PAGES.contains(&run.first)));
    assert!(!dirty.contains(COUNTER_PAGES.end));
}
