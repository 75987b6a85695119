//! What the kernel says about a replicator's process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::BenchError;

const KIB: f64 = 1024.0;

/// A process, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(pub(super) u32);

impl Process {
    /// The most memory that it ever had, in MiB (`VmHWM` of proc_pid_status(5)).
    pub(super) fn peak_mib(self) -> Result<f64, BenchError> {
        let path = self.file("status");
        let text = read(&path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.parse::<f64>().ok());
        kib.map(|kib| kib / KIB).ok_or_else(|| unexpected(&path))
    }

    /// The CPU time of all its threads (`schedstat`, whose first number is in nanoseconds).
    pub(super) fn cpu_time(self) -> Result<Duration, BenchError> {
        let path = self.file("task");
        let error = |source| BenchError::Process { path: path.clone(), source };
        let mut total = 0;
        for task in fs::read_dir(&path).map_err(error)? {
            let path = task.map_err(error)?.path().join("schedstat");
            let text = read(&path)?;
            let first = text.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            total += first.ok_or_else(|| unexpected(&path))?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// TCP segments that have been sent in its network namespace (`OutSegs` of RFC 4022).
    pub(super) fn tcp_segments(self) -> Result<u64, BenchError> {
        let path = self.file("net/snmp");
        let text = read(&path)?;
        // A line of names, and one of values.
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = lines.next().zip(lines.next()).ok_or_else(|| unexpected(&path))?;
        let sent = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "OutSegs");
        sent.and_then(|(_, value)| value.parse().ok()).ok_or_else(|| unexpected(&path))
    }

    /// The memory of the guest of `mib` MiB that it has: its only mapping of just that size.
    pub(super) fn guest_memory(self, mib: u64) -> Result<GuestMemory, BenchError> {
        let maps = self.file("maps");
        let text = read(&maps)?;
        let start =
            text.lines().filter_map(mapping).find(|(start, end)| end - start == mib << 20).map(|(start, _)| start);
        let start = start.ok_or_else(|| unexpected(&maps))?;
        let path = self.file("mem");
        let file = File::open(&path).map_err(|source| BenchError::Process { path: path.clone(), source })?;
        Ok(GuestMemory { file, path, start })
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }
}

/// A guest's memory, seen from outside.
pub(super) struct GuestMemory {
    file: File,
    path: PathBuf,
    start: u64,
}

impl GuestMemory {
    /// Reads what is at guest physical address `at`, below 3 GiB.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), BenchError> {
        let read = self.file.read_exact_at(into, self.start + at);
        read.map_err(|source| BenchError::Process { path: self.path.clone(), source })
    }

    /// The word at `at`.
    pub(super) fn word(&self, at: u64) -> Result<u64, BenchError> {
        let mut word = [0; 8];
        self.read(at, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
}

/// Start and end of a mapping, from its line of `maps`.
fn mapping(line: &str) -> Option<(u64, u64)> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// The text of a file under `/proc`.
pub(super) fn read(path: &Path) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(|source| BenchError::Process { path: path.to_owned(), source })
}

/// The error for one that does not have what it should.
pub(super) fn unexpected(path: &Path) -> BenchError {
    BenchError::Process { path: path.to_owned(), source: io::ErrorKind::InvalidData.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_looked_at() {
        let this = Process(std::process::id());
        assert!(this.peak_mib().expect("memory") > 1.0);
        assert!(this.cpu_time().expect("CPU time") > Duration::ZERO);
        let before = this.tcp_segments().expect("segments");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let _connection = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        assert!(this.tcp_segments().expect("segments") >= before + 3, "a connection begins with three");
    }

    #[test]
    fn a_line_of_maps_is_read() {
        let line = "7f9c00000000-7f9c04000000 rw-p 00000000 00:00 0 ";
        assert_eq!(mapping(line), Some((0x7f9c_0000_0000, 0x7f9c_0400_0000)));
        assert_eq!(mapping(""), None);
    }
}
