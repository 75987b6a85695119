//! A ledger on a virtio disk, served over TCP from bare metal.
//!
//! One loop, all of it in ring 3: look at every device, do what there is to do, sleep until an interrupt.
//! [`kemari_guest::wire`] says what it serves, [`kemari_guest::cmdline`] how it is set up. Ring 3, because on a KVM
//! without hardware support ring 0 is emulated, and because the way it is shaped (see `boot.s`) costs nothing elsewhere.
#![no_std]
#![no_main]
#![allow(clippy::panic, clippy::expect_used, reason = "a guest that cannot go on says so on its console and resets")]

extern crate alloc;

mod apic;
mod console;
mod cpu;
mod disk;
mod ledger;
mod memory;
mod net;
mod service;
mod virtio;
mod workload;

use console::say;
use core::time::Duration;
use cpu::Doorbells;
use disk::Disk;
use kemari_guest::cmdline::Cmdline;
use ledger::Ledger;
use service::Service;
use workload::Workload;

/// Where `boot.s` enters ring 3.
#[unsafe(no_mangle)]
extern "C" fn main(start_info: *const memory::StartInfo) -> ! {
    console::init();
    // SAFETY: boot.s passes on what the loader left in EBX; nothing else has used memory yet.
    let (line, ram) = unsafe { memory::describe(start_info) };
    let cmdline = Cmdline::parse(line).unwrap_or_else(|word| panic!("command line: cannot understand {word}"));
    let (ledger_heap, ram) = memory::init_heap(ram);
    apic::init();
    let clock = cpu::Clock::calibrate();

    let mut alarm = apic::Alarm::default();
    let mut bells = Doorbells::default();
    let (mut net, disk) = virtio::find(&cmdline.devices);
    let mut ledger = Ledger::open(Disk::new(disk), ledger_heap, cmdline.flush, &mut bells);
    let mut workload = Workload::new(ram, cmdline.dirty_pages, cmdline.dirty_rate);
    let mut service = Service::new(&mut net, &cmdline, clock.now());
    say!(
        "kemari-guest {} ip={}.{}.{}.{}/{} ledger={} flush={} dirty={}@{}",
        env!("CARGO_PKG_VERSION"),
        cmdline.ip[0],
        cmdline.ip[1],
        cmdline.ip[2],
        cmdline.ip[3],
        cmdline.prefix,
        ledger.len(),
        u8::from(cmdline.flush),
        cmdline.dirty_pages,
        cmdline.dirty_rate
    );

    loop {
        let now = clock.now();
        workload.run(now);
        let next = service.run(now, &mut net, &mut ledger, &workload, &mut bells);
        if console::ctrl_alt_del() {
            ledger.close(&mut bells);
            say!("kemari-guest: reset on request");
            cpu::reset();
        }
        net.ring(&mut bells);
        let next = [next, workload.next(now)].into_iter().flatten().min();
        if next == Some(Duration::ZERO) {
            bells.flush();
            continue;
        }
        if let Some(after) = next {
            alarm.set(now, after, &mut bells);
        }
        bells.flush_and_sleep();
    }
}
