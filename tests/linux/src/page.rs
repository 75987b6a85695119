//! Where a page of the guest lies in the memory of the host that runs it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::Error;

const PAGE_BYTES: usize = 4096;
/// Looks at a page that is written to all the time, and the time between them.
const LOOKS: usize = 4;
const LOOK: Duration = Duration::from_millis(50);
/// The first of them; below is what the firmware used.
const FIRST_BYTES: u64 = 1 << 20;

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { doing, source }
}

/// The host's physical address of a page: of the first that begins with `marker`, or that is different at every look.
pub(crate) fn page(pid: u32, mib: u64, marker: Option<&str>) -> Result<String, Error> {
    let start = mapping(pid, mib << 20)?;
    let memory = File::open(format!("/proc/{pid}/mem")).map_err(failed("open the replicator's memory"))?;
    let look = || {
        let mut content = vec![0; ((mib << 20) - FIRST_BYTES) as usize];
        memory.read_exact_at(&mut content, start + FIRST_BYTES).map_err(failed("read the guest's memory"))?;
        Ok(content)
    };
    let found = match marker {
        Some(marker) => look()?.chunks(PAGE_BYTES).position(|page| page.starts_with(marker.as_bytes())),
        None => restless(look)?,
    };
    let index = found.ok_or(Error::NoPage)?;
    Ok(format!("{:#x}", physical(pid, start + FIRST_BYTES + (index * PAGE_BYTES) as u64)?))
}

/// The first page that is different at every look.
fn restless(look: impl Fn() -> Result<Vec<u8>, Error>) -> Result<Option<usize>, Error> {
    let mut before = look()?;
    let mut candidates: Vec<usize> = (0..before.len() / PAGE_BYTES).collect();
    for _ in 1..LOOKS {
        std::thread::sleep(LOOK);
        let after = look()?;
        let bytes = |index: usize| index * PAGE_BYTES..(index + 1) * PAGE_BYTES;
        candidates.retain(|index| before[bytes(*index)] != after[bytes(*index)]);
        before = after;
    }
    Ok(candidates.first().copied())
}

/// Where the only mapping of just that size begins.
fn mapping(pid: u32, bytes: u64) -> Result<u64, Error> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(failed("read the replicator's mappings"))?;
    let range = |line: &str| {
        let (start, rest) = line.split_once('-')?;
        let (end, _) = rest.split_once(' ')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    };
    let found = maps.lines().filter_map(range).find(|(start, end)| end - start == bytes);
    found.map(|(start, _)| start).ok_or(Error::NoPage)
}

/// By `pagemap` (Documentation/admin-guide/mm/pagemap.rst): the frame is in bits 0 to 54, bit 63 says that there is one.
fn physical(pid: u32, address: u64) -> Result<u64, Error> {
    let map = File::open(format!("/proc/{pid}/pagemap")).map_err(failed("open the pagemap"))?;
    let mut entry = [0; 8];
    map.read_exact_at(&mut entry, address / PAGE_BYTES as u64 * 8).map_err(failed("read the pagemap"))?;
    let entry = u64::from_le_bytes(entry);
    let frame = entry & ((1 << 55) - 1);
    if entry >> 63 == 1 && frame != 0 { Ok(frame * PAGE_BYTES as u64) } else { Err(Error::NoPage) }
}
