//! The ledger as the shared disk has it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kemari_guest::wire::{self, Entry, FIRST_ENTRY_SECTOR, SECTOR, WireError};

use crate::load::payload;
use crate::{Acknowledged, SiteError, Violation};

const BLOCK: usize = 64 << 10;
const SECTORS: u64 = (BLOCK / SECTOR) as u64;

/// What is read at once: aligned for O_DIRECT, and longer than the 16 sectors beyond the end of the ledger that a guest may
/// have under way.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

/// A ledger's disk image.
#[derive(Clone, Debug)]
pub struct DiskImage {
    path: PathBuf,
}

/// What was in the ledger at one time, from some index on.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    first: u64,
    entries: BTreeMap<u64, Entry>,
    damaged: Vec<(u64, WireError)>,
    header: Option<WireError>,
}

impl DiskImage {
    /// The image at `path`.
    #[must_use]
    pub fn new(path: &Path) -> DiskImage {
        DiskImage { path: path.to_owned() }
    }

    /// Reads the header and the ledger from index `first` on, to the first 64 KiB without anything written. Past the page
    /// cache, as the nodes do: what is read is what another host would.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, first: u64) -> Result<Recorded, SiteError> {
        let error = |source| SiteError::File { path: self.path.clone(), source };
        let options = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).clone();
        let file = options.open(&self.path).map_err(error)?;
        let sectors = file.metadata().map_err(error)?.len() / SECTOR as u64;
        let mut recorded = Recorded { first, header: self.header(&file)?.err(), ..Recorded::default() };
        let mut sector = (first + FIRST_ENTRY_SECTOR) / SECTORS * SECTORS;
        let mut block = Box::new(Block([0; BLOCK]));
        while sector + SECTORS <= sectors {
            file.read_exact_at(&mut block.0, sector * SECTOR as u64).map_err(error)?;
            if !recorded.take(sector, &block) {
                break;
            }
            sector += SECTORS;
        }
        Ok(recorded)
    }

    fn header(&self, file: &File) -> Result<Result<(), WireError>, SiteError> {
        let mut block = Box::new(Block([0; BLOCK]));
        file.read_exact_at(&mut block.0, 0).map_err(|source| SiteError::File { path: self.path.clone(), source })?;
        let (sectors, _) = block.0.as_chunks::<SECTOR>();
        Ok(wire::check_header(&sectors[0]))
    }
}

impl Recorded {
    /// Takes what a block that begins at `sector` holds. Returns whether anything is written there.
    fn take(&mut self, sector: u64, block: &Block) -> bool {
        let mut written = false;
        let (sectors, _) = block.0.as_chunks::<SECTOR>();
        for (place, bytes) in (sector..).zip(sectors) {
            let Some(index) = place.checked_sub(FIRST_ENTRY_SECTOR) else { continue };
            if bytes.iter().all(|&byte| byte == 0) {
                continue;
            }
            written = true;
            if index < self.first {
                continue;
            }
            match Entry::from_sector(bytes) {
                Ok(entry) => {
                    self.entries.insert(index, entry);
                }
                Err(error) => self.damaged.push((index, error)),
            }
        }
        written
    }

    /// Leaves out what is past index `last`: a running guest is writing there.
    #[must_use]
    pub fn until(mut self, last: u64) -> Recorded {
        self.entries.retain(|&index, _| index <= last);
        self.damaged.retain(|&(index, _)| index <= last);
        self
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Checks that the ledger is sound by itself and has every entry of `acknowledged` exactly once, where the answer said.
    /// Those at indexes before the first that was read are passed over.
    ///
    /// # Errors
    /// The first thing that is not so.
    pub fn check(&self, acknowledged: &[Acknowledged]) -> Result<(), Violation> {
        if let Some(source) = self.header {
            return Err(Violation::Header { source });
        }
        if let Some(&(index, source)) = self.damaged.first() {
            return Err(Violation::Damaged { index, source });
        }
        let mut places = HashMap::with_capacity(self.entries.len());
        for (expected, (&index, entry)) in (self.first..).zip(&self.entries) {
            let Entry { client, seq, .. } = *entry;
            if index != expected {
                return Err(Violation::Hole { index: expected });
            }
            if entry.index != index || entry.payload != payload(client, seq) {
                return Err(Violation::Altered { index, found: describe(Some(entry)) });
            }
            if let Some(first) = places.insert((client, seq), index) {
                return Err(Violation::Twice { client, seq, first, second: index });
            }
        }
        for &Acknowledged { client, seq, index } in acknowledged.iter().filter(|entry| entry.index >= self.first) {
            if places.get(&(client, seq)) != Some(&index) {
                let found = describe(self.entries.get(&index));
                return Err(Violation::Missing { client, seq, index, found });
            }
        }
        Ok(())
    }

    /// Checks that everything that was on the disk earlier is there still. Whatever reached a shared disk was seen by the
    /// outside world, acknowledged or not.
    ///
    /// # Errors
    /// The first entry that is not there any more.
    pub fn check_keeps(&self, earlier: &Recorded) -> Result<(), Violation> {
        for (&index, before) in earlier.entries.range(self.first..) {
            let after = self.entries.get(&index);
            if after != Some(before) {
                return Err(Violation::Rewritten { index, before: describe(Some(before)), after: describe(after) });
            }
        }
        Ok(())
    }
}

fn describe(entry: Option<&Entry>) -> String {
    match entry {
        Some(Entry { index, client, seq, .. }) => format!("entry {seq} of client {client} (index {index})"),
        None => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, client: u32, seq: u64) -> Entry {
        Entry { index, client, seq, payload: payload(client, seq) }
    }

    /// An image of 256 KiB with these sectors in it, and what is read from it.
    fn recorded(entries: &[(u64, Entry)], first: u64) -> Recorded {
        let directory = crate::scratch::directory().expect("a directory");
        let path = directory.path().join("disk");
        let file = File::create(&path).expect("a file");
        file.set_len(256 << 10).expect("its size");
        file.write_all_at(&wire::header(), 0).expect("a header");
        for (index, entry) in entries {
            file.write_all_at(&entry.to_sector(), (index + FIRST_ENTRY_SECTOR) * SECTOR as u64).expect("an entry");
        }
        file.sync_all().expect("on the disk");
        DiskImage::new(&path).read(first).expect("readable")
    }

    fn sound(count: u64) -> Vec<(u64, Entry)> {
        (0..count).map(|index| (index, entry(index, 1, index + 10))).collect()
    }

    #[test]
    fn a_sound_ledger_over_several_blocks() {
        let recorded = recorded(&sound(300), 0);
        let acknowledged: Vec<_> = (0..290).map(|index| Acknowledged { client: 1, seq: index + 10, index }).collect();
        recorded.check(&acknowledged).expect("sound");
        assert_eq!(recorded.len(), 300);
    }

    #[test]
    fn reading_from_an_index_on_passes_over_what_is_before() {
        let recorded = recorded(&sound(300), 200);
        assert_eq!(recorded.len(), 100);
        recorded.check(&[Acknowledged { client: 1, seq: 999, index: 3 }]).expect("index 3 was not looked at");
        let elsewhere = [Acknowledged { client: 1, seq: 215, index: 206 }];
        assert!(matches!(recorded.check(&elsewhere), Err(Violation::Missing { index: 206, .. })));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut twice = sound(5);
        twice.push((5, entry(5, 1, 12)));
        assert!(matches!(
            recorded(&twice, 0).check(&[]),
            Err(Violation::Twice { client: 1, seq: 12, first: 2, second: 5 })
        ));
        let mut hole = sound(5);
        hole.remove(3);
        assert!(matches!(recorded(&hole, 0).check(&[]), Err(Violation::Hole { index: 3 })));
        let mut misplaced = sound(5);
        misplaced[4].1.index = 7;
        assert!(matches!(recorded(&misplaced, 0).check(&[]), Err(Violation::Altered { index: 4, .. })));
        let lost = [Acknowledged { client: 1, seq: 15, index: 5 }];
        assert!(matches!(recorded(&sound(5), 0).check(&lost), Err(Violation::Missing { index: 5, .. })));
    }

    #[test]
    fn what_the_disk_once_showed_must_stay() {
        let before = recorded(&sound(5), 0);
        recorded(&sound(6), 0).check_keeps(&before).expect("more is right");
        assert!(matches!(recorded(&sound(4), 0).check_keeps(&before), Err(Violation::Rewritten { index: 4, .. })));
    }
}
