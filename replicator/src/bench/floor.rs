//! The floors of this run.

use std::path::Path;
use std::process::Command;

use super::BenchError;

/// The program that measures them, beside this one.
const PROGRAM: &str = "kemari-floor";
/// The numbers of pages that the lists in [`Floors`] are for.
const PAGES: [u64; 4] = [0, 16, 128, 1024];

/// What `kemari-floor --json` prints: times in microseconds, speeds in 10^9 bytes a second.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Floors {
    pub(super) msrs: u64,
    pub(super) memcpy_gb_s: f64,
    pub(super) stream_gb_s: f64,
    memcpy_us: [f64; PAGES.len()],
    round_trip_us: [f64; PAGES.len()],
    pub(super) write_through_us: f64,
    pub(super) kick_us: f64,
    pub(super) reentry_us: f64,
    pub(super) state_read_us: f64,
    machines: Vec<Machine>,
}

/// What may depend on the size of a guest.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Machine {
    mib: u64,
    dirty_log_us: f64,
    restore_us: f64,
    first_entry_us: f64,
}

impl Floors {
    /// Has them measured.
    pub(super) fn measure(this_program: &Path, quick: bool) -> Result<Floors, BenchError> {
        let path = this_program.with_file_name(PROGRAM);
        let mut command = Command::new(&path);
        command.arg("--json").args(quick.then_some("--quick"));
        let output = command.output().map_err(|source| BenchError::NoFloor { path: path.clone(), source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(BenchError::Floor { path, status: output.status, output: said });
        }
        serde_json::from_slice(&output.stdout).map_err(|source| BenchError::FloorOutput { path, source })
    }

    /// To stop a guest of `mib` MiB, read all of its state and the dirty log, copy that many pages, and go on.
    pub(super) fn pause_us(&self, mib: u64, pages: u64) -> Option<f64> {
        let copy = at(&self.memcpy_us, pages)?;
        Some(self.kick_us + self.state_read_us + self.machine(mib)?.dirty_log_us + copy + self.reentry_us)
    }

    /// A small message there and another back.
    pub(super) fn small_round_trip_us(&self) -> f64 {
        self.round_trip_us[0]
    }

    /// That many pages there, a small message back.
    pub(super) fn round_trip_us(&self, pages: u64) -> Option<f64> {
        at(&self.round_trip_us, pages)
    }

    /// To restore all of the state of a guest of `mib` MiB, up to its first store.
    pub(super) fn promotion_us(&self, mib: u64) -> Option<f64> {
        self.machine(mib).map(|machine| machine.restore_us + machine.first_entry_us)
    }

    fn machine(&self, mib: u64) -> Option<Machine> {
        self.machines.iter().copied().find(|machine| machine.mib == mib)
    }
}

fn at(list: &[f64; PAGES.len()], pages: u64) -> Option<f64> {
    PAGES.iter().position(|&measured| measured == pages).map(|index| list[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_prints_is_understood() {
        let line = r#"{"msrs":41,"memcpy_gb_s":6.5,"stream_gb_s":1.4,"memcpy_us":[0.1,1,2,3],"round_trip_us":[10,20,30,40],
            "write_through_us":250,"kick_us":60,"reentry_us":50,"state_read_us":80,
            "machines":[{"mib":64,"dirty_log_us":2,"restore_us":70,"first_entry_us":100}]}"#;
        let floors: Floors = serde_json::from_str(line).expect("the program's output");
        assert_eq!(floors.pause_us(64, 16), Some(60.0 + 80.0 + 2.0 + 1.0 + 50.0));
        assert_eq!(floors.promotion_us(64), Some(170.0));
        assert_eq!((floors.round_trip_us(128), floors.round_trip_us(17)), (Some(30.0), None));
    }
}
