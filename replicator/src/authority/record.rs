//! The record and its file.
//!
//! The file has two slots of one block each, written in turn, so that a power cut in the middle of a write leaves the slot
//! before. Both are allocated when the file is made; after that a record costs one block written through (O_DSYNC) and no
//! work in the filesystem's journal. A promotion waits for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kemari_control::Standing;
use kemari_core::Generation;
use serde::{Deserialize, Serialize};

use super::AuthorityError;

const SLOT_BYTES: usize = 4096;
const SLOTS: usize = 2;

/// The durable memory of one node about one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Grows with each write; the newest counts.
    sequence: u64,
    /// The guest's name, so that a state directory used for another guest is noticed.
    pub guest: String,
    /// Newest generation this node knows.
    pub generation_number: u64,
    /// The random half of that generation's name, in hexadecimal.
    pub generation_id: String,
    /// What this node was in it.
    pub standing: Standing,
}

impl Record {
    pub(super) fn new(guest: &str, generation: Generation, standing: Standing) -> Record {
        Record {
            sequence: 0,
            guest: guest.to_owned(),
            generation_number: generation.number,
            generation_id: format!("{:016x}", generation.id),
            standing,
        }
    }

    pub(super) fn generation(&self) -> Option<Generation> {
        let id = u64::from_str_radix(&self.generation_id, 16).ok()?;
        Some(Generation { number: self.generation_number, id })
    }

    /// Whether it says the same as another one.
    fn says_what(&self, other: &Record) -> bool {
        *self == Record { sequence: self.sequence, ..other.clone() }
    }
}

/// The file, and what it says.
#[derive(Debug)]
pub(super) struct Store {
    file: File,
    path: PathBuf,
    record: Option<Record>,
}

impl Store {
    /// Opens the record file of `guest`, making it in `directory` if it is missing.
    pub(super) fn open(directory: &Path, path: &Path, guest: &str) -> Result<Store, AuthorityError> {
        let io = |source| AuthorityError::Io { path: path.to_owned(), source };
        if !path.exists() {
            make(directory, path).map_err(io)?;
        }
        let mut file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DSYNC).open(path).map_err(io)?;
        let mut bytes = Vec::new();
        (&mut file).take((SLOTS * SLOT_BYTES) as u64).read_to_end(&mut bytes).map_err(io)?;
        let record = newest(&bytes).map_err(|reason| AuthorityError::Damaged { path: path.to_owned(), reason })?;
        if let Some(record) = record.as_ref().filter(|record| record.guest != guest) {
            return Err(AuthorityError::OtherGuest {
                path: path.to_owned(),
                found: record.guest.clone(),
                wanted: guest.to_owned(),
            });
        }
        Ok(Store { file, path: path.to_owned(), record })
    }

    pub(super) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the record. It is on stable storage when this returns, or the one before still is.
    pub(super) fn write(&mut self, mut record: Record) -> Result<(), AuthorityError> {
        if let Some(before) = &self.record {
            if before.says_what(&record) {
                return Ok(());
            }
            record.sequence = before.sequence;
        }
        record.sequence += 1;
        let slot = slot(&record).map_err(|source| AuthorityError::Io { path: self.path.clone(), source })?;
        let place = record.sequence as usize % SLOTS * SLOT_BYTES;
        self.file
            .write_all_at(&slot, place as u64)
            .map_err(|source| AuthorityError::Io { path: self.path.clone(), source })?;
        self.record = Some(record);
        Ok(())
    }
}

/// Makes the file with empty slots, under its name only once it is whole.
fn make(directory: &Path, path: &Path) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(&[b' '; SLOTS * SLOT_BYTES])?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// A line with the checksum and the record as JSON, and blanks.
fn slot(record: &Record) -> io::Result<Vec<u8>> {
    let json = serde_json::to_string(record)?;
    let mut slot = format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes())).into_bytes();
    if slot.len() > SLOT_BYTES {
        return Err(io::Error::other("the record is longer than its slot"));
    }
    slot.resize(SLOT_BYTES, b' ');
    Ok(slot)
}

/// The record that counts. One slot may be torn, by a power cut while it was written; the other one was whole then.
fn newest(bytes: &[u8]) -> Result<Option<Record>, String> {
    if bytes.len() != SLOTS * SLOT_BYTES {
        return Err(format!("{} bytes long, where a record has {}", bytes.len(), SLOTS * SLOT_BYTES));
    }
    let mut reason = None;
    let mut found: Vec<Record> = Vec::new();
    for slot in bytes.chunks(SLOT_BYTES) {
        match parse(slot) {
            Ok(record) => found.extend(record),
            Err(why) => reason = Some(why),
        }
    }
    match (found.into_iter().max_by_key(|record| record.sequence), reason) {
        (None, Some(reason)) => Err(reason),
        (record, _) => Ok(record),
    }
}

fn parse(slot: &[u8]) -> Result<Option<Record>, String> {
    let text = std::str::from_utf8(slot).map_err(|error| error.to_string())?.trim_end();
    if text.is_empty() {
        return Ok(None);
    }
    let (sum, json) = text.split_once(' ').ok_or("no checksum")?;
    if u32::from_str_radix(sum, 16) != Ok(crc32c::crc32c(json.as_bytes())) {
        return Err("the checksum is wrong".to_owned());
    }
    let record: Record = serde_json::from_str(json).map_err(|error| error.to_string())?;
    if record.generation().is_none() {
        return Err(format!("generation_id {:?} is not hexadecimal", record.generation_id));
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> Record {
        Record { sequence, ..Record::new("web", Generation { number: sequence, id: 5 }, Standing::Standby) }
    }

    fn file(first: &[u8], second: &[u8]) -> Vec<u8> {
        [first, second].concat()
    }

    #[test]
    fn the_newest_slot_counts_and_a_torn_one_does_not() {
        let (old, new) = (slot(&record(6)).expect("fits"), slot(&record(7)).expect("fits"));
        assert_eq!(newest(&file(&old, &new)), Ok(Some(record(7))));
        assert_eq!(newest(&file(&new, &old)), Ok(Some(record(7))));
        let mut torn = new.clone();
        torn[20] ^= 1;
        assert_eq!(newest(&file(&old, &torn)), Ok(Some(record(6))));
        assert!(newest(&file(&torn, &torn)).is_err());
        let empty = vec![b' '; SLOT_BYTES];
        assert_eq!(newest(&file(&empty, &empty)), Ok(None));
        assert_eq!(newest(&file(&empty, &old)), Ok(Some(record(6))));
        assert!(newest(&old).is_err());
    }

    #[test]
    fn slots_are_written_in_turn() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("record");
        for number in 1..5 {
            let mut store = Store::open(directory.path(), &path, "web").expect("writable");
            store.write(Record::new("web", Generation { number, id: 5 }, Standing::Primary)).expect("writable");
            let bytes = std::fs::read(&path).expect("written");
            let sequences: Vec<u64> = bytes
                .chunks(SLOT_BYTES)
                .filter_map(|slot| parse(slot).expect("whole"))
                .map(|record| record.sequence)
                .collect();
            assert_eq!(sequences.iter().max(), Some(&number));
            assert_eq!(sequences.len(), (number as usize).min(SLOTS));
        }
    }
}
