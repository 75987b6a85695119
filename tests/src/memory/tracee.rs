//! A replicator's process, as ptrace(2) and /proc show it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::MemoryError;

const PAGE_BYTES: usize = 4096;
/// Between two looks at a page.
const LOOK: Duration = Duration::from_millis(50);
/// Of `siginfo_t` (include/uapi/asm-generic/siginfo.h): the code of an error that nobody has touched yet, where the address is,
/// and where the number of its low bits that mean nothing is.
const BUS_MCEERR_AO: i32 = 5;
const SI_CODE: usize = 8;
const SI_ADDR: usize = 16;
const SI_ADDR_LSB: usize = 24;

pub(super) struct Tracee {
    pid: libc::pid_t,
    /// Where the guest's memory begins.
    start: u64,
    pages: u64,
    memory: File,
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> MemoryError {
    move |source| MemoryError::Trace { step, source }
}

impl Tracee {
    /// The process of a node whose guest has `mib` MiB: its only mapping of just that size.
    pub(super) fn new(pid: u32, mib: u64) -> Result<Tracee, MemoryError> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(failed("read the mappings"))?;
        let found = maps.lines().filter_map(mapping).find(|(start, end)| end - start == mib << 20);
        let Some((start, _)) = found else {
            return Err(MemoryError::Wrong(format!("process {pid} has no mapping of {mib} MiB")));
        };
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"));
        let memory = memory.map_err(failed("look at the guest's memory"))?;
        Ok(Tracee { pid: pid.cast_signed(), start, pages: (mib << 20) / PAGE_BYTES as u64, memory })
    }

    /// The content of a page of the guest.
    pub(super) fn read(&self, page: u64) -> Result<[u8; PAGE_BYTES], MemoryError> {
        let mut content = [0; PAGE_BYTES];
        let at = self.start + page * PAGE_BYTES as u64;
        self.memory.read_exact_at(&mut content, at).map_err(failed("read the guest's memory"))?;
        Ok(content)
    }

    /// The first page from 1 MiB on of which two looks please.
    pub(super) fn find_page(
        &self,
        pleases: impl Fn(&[u8; PAGE_BYTES], &[u8; PAGE_BYTES]) -> bool,
    ) -> Result<u64, MemoryError> {
        let first = (1 << 20) / PAGE_BYTES as u64;
        let look = || (first..self.pages).map(|page| self.read(page)).collect::<Result<Vec<_>, _>>();
        let before = look()?;
        std::thread::sleep(LOOK);
        let after = look()?;
        let pair = before.iter().zip(&after).position(|(before, after)| pleases(before, after));
        pair.map(|index| first + index as u64).ok_or_else(|| MemoryError::Wrong("there is no such page".to_owned()))
    }

    /// Spoils a page behind the process's back, so that it is in no dirty log.
    pub(super) fn spoil(&self, page: u64) -> Result<(), MemoryError> {
        let at = self.start + page * PAGE_BYTES as u64;
        self.memory.write_all_at(&[0xa5; PAGE_BYTES], at).map_err(failed("write to the guest's memory"))
    }

    /// Sends what the kernel sends when it has learned that a page is lost. Only the process itself or its tracer can.
    pub(super) fn lose(&self, page: u64) -> Result<(), MemoryError> {
        self.trace(libc::PTRACE_SEIZE, 0, "trace the process")?;
        // SAFETY: takes three integers.
        unsafe { libc::syscall(libc::SYS_tgkill, self.pid, self.pid, libc::SIGBUS) };
        loop {
            let mut status = 0;
            // SAFETY: writes one int, which outlives the call.
            let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
            if waited < 0 {
                return Err(failed("wait for the process")(io::Error::last_os_error()));
            }
            if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGBUS {
                break;
            }
            self.trace(libc::PTRACE_CONT, 0, "let the process go on")?;
        }
        let address = self.start + page * PAGE_BYTES as u64;
        let mut info = [0u64; 16];
        let pieces: [(usize, &[u8]); 4] = [
            (0, &libc::SIGBUS.to_ne_bytes()),
            (SI_CODE, &BUS_MCEERR_AO.to_ne_bytes()),
            (SI_ADDR, &address.to_ne_bytes()),
            (SI_ADDR_LSB, &12i16.to_ne_bytes()),
        ];
        for (at, bytes) in pieces {
            for (offset, byte) in (at..).zip(bytes) {
                info[offset / 8] |= u64::from(*byte) << (offset % 8 * 8);
            }
        }
        self.trace(libc::PTRACE_SETSIGINFO, info.as_ptr() as u64, "say what the signal is about")?;
        self.trace(libc::PTRACE_DETACH, libc::SIGBUS as u64, "deliver the signal")
    }

    fn trace(&self, request: libc::c_uint, data: u64, step: &'static str) -> Result<(), MemoryError> {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: of the requests made here only PTRACE_SETSIGINFO reads memory: 128 bytes, which outlive the call.
        let result = unsafe { libc::ptrace(request, self.pid, none, data) };
        if result < 0 { Err(failed(step)(io::Error::last_os_error())) } else { Ok(()) }
    }
}

/// Start and end of a mapping, from its line of `maps`.
fn mapping(line: &str) -> Option<(u64, u64)> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}
