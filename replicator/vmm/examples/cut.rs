//! How long the steps of a checkpoint take here: `cargo run --release -p kemari-vmm --example cut`.

#![allow(clippy::expect_used, reason = "a measurement that fails has nothing to say")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{COUNTER, ENTRY, booted};
use kemari_core::PageSet;

const CHECKPOINTS: usize = 2000;
const EPOCH: Duration = Duration::from_micros(500);

fn main() {
    if !common::has_kvm() {
        return;
    }
    println!("medians (and 99th percentiles) of {CHECKPOINTS} checkpoints, in microseconds");
    for vcpus in [1, 2] {
        measure(vcpus);
    }
}

fn measure(vcpus: u8) {
    let mut guest = booted(&[(ENTRY, COUNTER)], vcpus);
    let machine = &mut guest.machine;
    let mut dirty = PageSet::empty(machine.pages());
    let (mut outputs, mut copied) = (Vec::new(), Vec::new());
    let mut samples: [Vec<Duration>; 5] = Default::default();
    let (mut pages, mut bytes) = (0, 0);
    for _ in 0..CHECKPOINTS {
        machine.run();
        std::thread::sleep(EPOCH);
        let begun = Instant::now();
        machine.pause(&mut outputs).expect("paused");
        bytes = machine.save().expect("saved").len();
        dirty.clear();
        machine.harvest(&mut dirty).expect("harvested");
        let copying = Instant::now();
        copied.clear();
        for run in dirty.runs() {
            machine.copy_pages(run, &mut copied).expect("copied");
        }
        let copy = copying.elapsed();
        machine.run();
        let timings = machine.timings();
        let steps = [timings.pause, timings.save, timings.harvest, copy, begun.elapsed()];
        samples.iter_mut().zip(steps).for_each(|(samples, step)| samples.push(step));
        pages += dirty.count();
        machine.pause(&mut outputs).expect("paused");
    }
    println!("{vcpus} vCPU: {bytes} bytes of state, {} dirty pages", pages / CHECKPOINTS as u64);
    for (samples, name) in samples.iter_mut().zip(["pause", "save", "harvest", "copy", "whole"]) {
        samples.sort_unstable();
        let at = |percent: usize| samples[samples.len() * percent / 100].as_nanos() as f64 / 1000.0;
        println!("  {name:8} {:7.1} ({:.1})", at(50), at(99));
    }
}
