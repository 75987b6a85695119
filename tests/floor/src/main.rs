//! `kemari-floor`: what this machine does at best, to be put beside what Kemari does with it.
//!
//! Nothing of Kemari is in it, and no crate but libc: plain system calls, with the constants of `linux/kvm.h` written out. Every
//! figure is the best of three medians, so that what else the machine has to do in the meantime does not count.

mod error;
mod kvm;
mod memory;
mod report;
mod sample;
mod storage;
mod tcp;

use std::process::ExitCode;

use crate::error::Error;
use crate::kvm::measure::{self, Machine};
use crate::sample::Effort;

/// Pages of the checkpoints whose copying and sending is measured.
const PAGES: [usize; 4] = [0, 16, 128, 1024];
/// Sizes of the guests, in MiB.
const GUESTS_MIB: [usize; 3] = [64, 256, 1024];

const USAGE: &str = "usage: kemari-floor [--json] [--quick]

  --json   print one line of JSON instead of a table
  --quick  fewer samples

It needs /dev/kvm, and for the largest of its guests 1 GiB of memory.";

/// Everything that is measured. Times are in microseconds, speeds in 10^9 bytes a second.
#[derive(Debug)]
struct Floors {
    /// MSRs in the batch of KVM_GET_MSRS.
    msrs: usize,
    memcpy_gb_s: f64,
    /// By the number of pages: [`PAGES`].
    memcpy_us: Vec<f64>,
    /// The same: that many pages and a header there, a header back.
    round_trip_us: Vec<f64>,
    stream_gb_s: f64,
    write_through_us: f64,
    kick_us: f64,
    reentry_us: f64,
    state_read_us: f64,
    /// By the size of the guest: [`GUESTS_MIB`].
    machines: Vec<Machine>,
}

impl Floors {
    fn measure(effort: Effort) -> Result<Floors, Error> {
        let exits = measure::exits(effort)?;
        Ok(Floors {
            msrs: exits.msrs,
            memcpy_gb_s: memory::copy_gb_s(effort),
            memcpy_us: PAGES.map(|pages| memory::copy_us(pages, effort)).to_vec(),
            round_trip_us: PAGES.iter().map(|pages| tcp::round_trip_us(*pages, effort)).collect::<Result<_, _>>()?,
            stream_gb_s: tcp::stream_gb_s(effort)?,
            write_through_us: storage::write_through_us(effort)?,
            kick_us: exits.kick_us,
            reentry_us: exits.reentry_us,
            state_read_us: exits.state_read_us,
            machines: GUESTS_MIB.iter().map(|mib| measure::machine(*mib, effort)).collect::<Result<_, _>>()?,
        })
    }
}

fn main() -> ExitCode {
    let (mut json, mut effort) = (false, Effort::FULL);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            "--quick" => effort = Effort::QUICK,
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("kemari-floor: unknown argument {other:?}\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match Floors::measure(effort) {
        Ok(floors) if json => println!("{}", report::json(&floors)),
        Ok(floors) => print!("{}", report::text(&floors)),
        Err(error) => {
            eprintln!("kemari-floor: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
