//! The ledger: entries in the order they were appended, in memory and on the disk.
//!
//! An append is *durable* when its sector and those of all entries before it are written (and flushed, if asked to):
//! only that is answered, so that a scan from the first sector always finds every entry that was ever answered.

use crate::cpu::Doorbells;
use crate::disk::{Disk, Failed, Ticket};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use kemari_guest::wire::{self, APPENDS_IN_FLIGHT, Entry, FIRST_ENTRY_SECTOR, Refusal, SECTOR};

/// Entries in one piece of the copy in memory: a page of them, so that an append dirties one page and moves none.
const PIECE: usize = 4096 / size_of::<Kept>();
/// Bytes of heap for an entry, if every one is another client's.
const HEAP_PER_ENTRY: u64 = 64;
/// Entries read from the disk at once, for clients and at boot.
pub(crate) const READS: usize = 8;
const NONE: u32 = u32::MAX;

/// What memory keeps of an entry.
#[derive(Clone, Copy)]
struct Kept {
    seq: u64,
    payload: [u8; 16],
    client: u32,
    /// The same client's entry before this one, or [`NONE`].
    previous: u32,
}

/// An entry being read for a client.
#[derive(Clone, Copy)]
enum Read {
    Begun(Ticket, u64),
    Done(u64, Result<Entry, Refusal>),
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Append {
    /// It has this index; answer when that is durable.
    At {
        /// Its place.
        index: u64,
        /// It had been there before.
        repeated: bool,
    },
    /// Too many are on their way to the disk: ask again later.
    Later,
    /// It will not be.
    Refused(Refusal),
}

/// The ledger.
pub(crate) struct Ledger {
    disk: Disk,
    flush: bool,
    capacity: u64,
    pieces: Vec<Vec<Kept>>,
    len: u64,
    /// Last entry of each client.
    clients: BTreeMap<u32, u32>,
    /// Writes on their way, and whose they are.
    writes: [Option<(Ticket, u64)>; APPENDS_IN_FLIGHT],
    /// All entries below are written.
    written: u64,
    /// A flush on its way, and what becomes durable with it.
    flushing: Option<(Ticket, u64)>,
    /// All entries below are durable.
    durable: u64,
    reads: [Option<Read>; READS],
    /// The disk has failed a write or a flush: nothing more becomes durable.
    failed: bool,
    corrupt: bool,
}

impl Ledger {
    /// Reads the ledger on `disk`, or starts one on a disk whose first sector is all zero. `heap` is how many bytes of
    /// memory it may come to use; there is room for no more entries than that.
    pub(crate) fn open(disk: Disk, heap: u64, flush: bool, bells: &mut Doorbells) -> Self {
        let capacity = disk.sectors().saturating_sub(FIRST_ENTRY_SECTOR).min(heap / HEAP_PER_ENTRY);
        let flush = flush && disk.can_flush();
        let mut ledger = Self {
            disk,
            flush,
            capacity,
            pieces: Vec::new(),
            len: 0,
            clients: BTreeMap::new(),
            writes: [None; APPENDS_IN_FLIGHT],
            written: 0,
            flushing: None,
            durable: 0,
            reads: [None; READS],
            failed: false,
            corrupt: false,
        };
        assert!(capacity > 0, "the disk has no room for a ledger");
        let first = ledger.read_now(0, bells);
        if first == [0; SECTOR] {
            ledger.write_now(0, &wire::header(), bells);
        } else if let Err(e) = wire::check_header(&first) {
            panic!("the disk holds something else than a ledger of version {}: {e}", wire::DISK_VERSION);
        }
        ledger.scan(bells);
        ledger
    }

    /// Finds the end, then erases what a crash may have left behind it: writes of which an earlier one was lost, which
    /// would come back to life when that sector is written again.
    fn scan(&mut self, bells: &mut Doorbells) {
        'entries: while self.len < self.capacity {
            for sector in self.read_ahead(self.len, bells).into_iter().flatten() {
                match Entry::from_sector(&sector) {
                    Ok(entry) if entry.index == self.len => self.keep(&entry),
                    _ => break 'entries,
                }
            }
        }
        let leftovers = self.len..self.capacity.min(self.len + APPENDS_IN_FLIGHT as u64);
        for index in leftovers {
            if self.read_now(FIRST_ENTRY_SECTOR + index, bells) != [0; SECTOR] {
                self.write_now(FIRST_ENTRY_SECTOR + index, &[0; SECTOR], bells);
            }
        }
        (self.written, self.durable) = (self.len, self.len);
    }

    /// The sectors of some entries from `index` on, read at once: one by one, a long ledger would take minutes.
    fn read_ahead(&mut self, index: u64, bells: &mut Doorbells) -> [Option<[u8; SECTOR]>; READS] {
        let mut sectors = [None; READS];
        let count = (self.capacity - index).min(READS as u64);
        let tickets: Vec<_> = (index..index + count).map(|index| self.disk.read(FIRST_ENTRY_SECTOR + index)).collect();
        for _ in 0..count {
            let (ticket, sector) = self.wait(bells);
            let sector = sector.unwrap_or_else(|_| panic!("the disk cannot read near entry {index}"));
            if let Some(at) = tickets.iter().position(|waited| *waited == Some(ticket)) {
                sectors[at] = Some(sector);
            }
        }
        sectors
    }

    /// Appends, unless this client's number has been appended before.
    pub(crate) fn append(&mut self, client: u32, seq: u64, payload: [u8; 16]) -> Append {
        if let Some(&last) = self.clients.get(&client)
            && seq <= self.kept(last).seq
        {
            let found = self.find(last, seq).map(u64::from);
            return found.map_or(Append::Refused(Refusal::Stale), |index| Append::At { index, repeated: true });
        }
        if self.failed {
            return Append::Refused(Refusal::Disk);
        }
        if self.len == self.capacity {
            return Append::Refused(Refusal::Full);
        }
        let entry = Entry { index: self.len, client, seq, payload };
        // Not only the free slot counts: no more sectors than this may lie beyond the durable end (see `scan`).
        let Some(slot) = self.writes.iter().position(Option::is_none) else { return Append::Later };
        if self.len - self.durable >= APPENDS_IN_FLIGHT as u64 {
            return Append::Later;
        }
        let Some(ticket) = self.disk.write(FIRST_ENTRY_SECTOR + entry.index, &entry.to_sector()) else {
            return Append::Later;
        };
        self.writes[slot] = Some((ticket, entry.index));
        self.keep(&entry);
        Append::At { index: entry.index, repeated: false }
    }

    /// Whether the entry may be answered for; an error when it never will.
    pub(crate) fn is_durable(&self, index: u64) -> Result<bool, Refusal> {
        if index >= self.durable && self.failed { Err(Refusal::Disk) } else { Ok(index < self.durable) }
    }

    /// The entry as the disk has it, when that has been read: ask until there is an answer.
    pub(crate) fn get(&mut self, index: u64) -> Option<Result<Entry, Refusal>> {
        if index >= self.durable {
            return Some(Err(Refusal::NoSuchEntry));
        }
        let about = |read: &Option<Read>| matches!(read, Some(Read::Begun(_, of) | Read::Done(of, _)) if *of == index);
        if let Some(slot) = self.reads.iter_mut().find(|read| about(read)) {
            let Some(Read::Done(_, result)) = *slot else { return None };
            *slot = None;
            return Some(result);
        }
        // What a client asked for and did not stay for gives way when there is no other room.
        let room = |read: &Option<Read>| read.is_none();
        let slot = self.reads.iter().position(room);
        let slot = slot.or_else(|| self.reads.iter().position(|read| matches!(read, Some(Read::Done(..)))))?;
        self.reads[slot] = self.disk.read(FIRST_ENTRY_SECTOR + index).map(|ticket| Read::Begun(ticket, index));
        None
    }

    /// Entries, durable or about to be.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Entries that are durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether the disk ever returned something else than was written.
    pub(crate) fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// Takes note of what the disk has completed. Returns whether there was anything.
    pub(crate) fn advance(&mut self) -> bool {
        let mut any = false;
        while let Some((ticket, result)) = self.disk.completed() {
            any = true;
            let result = result.copied();
            let of = |read: &Option<Read>| matches!(read, Some(Read::Begun(begun, _)) if *begun == ticket);
            if let Some(slot) = self.reads.iter().position(of) {
                if let Some(Read::Begun(_, index)) = self.reads[slot] {
                    self.reads[slot] = Some(Read::Done(index, self.check(index, result)));
                }
            } else if let Some((_, upto)) = self.flushing.take_if(|(flushing, _)| *flushing == ticket) {
                self.failed |= result.is_err();
                self.durable = if self.failed { self.durable } else { upto };
            } else if let Some(slot) = self.writes.iter_mut().find(|w| w.is_some_and(|(write, _)| write == ticket)) {
                *slot = None;
                self.failed |= result.is_err();
            }
        }
        if any && !self.failed {
            self.written = self.writes.iter().flatten().map(|(_, index)| *index).min().unwrap_or(self.len);
            if !self.flush {
                self.durable = self.written;
            }
        }
        if self.flush && !self.failed && self.flushing.is_none() && self.durable < self.written {
            self.flushing = self.disk.flush().map(|ticket| (ticket, self.written));
        }
        any
    }

    /// Tells the disk what it has to know.
    pub(crate) fn ring(&mut self, bells: &mut Doorbells) {
        self.disk.ring(bells);
    }

    /// Waits for the writes on their way, then for a flush.
    pub(crate) fn close(&mut self, bells: &mut Doorbells) {
        let begun = |read: &Option<Read>| matches!(read, Some(Read::Begun(..)));
        while self.writes.iter().any(Option::is_some) || self.flushing.is_some() || self.reads.iter().any(begun) {
            self.ring(bells);
            bells.flush_and_sleep();
            self.advance();
        }
        if self.disk.can_flush() && self.disk.flush().is_some() {
            // If it fails, nobody was promised more than had been flushed before.
            let _ = self.wait(bells);
        }
    }

    /// What a read of entry `index` comes to: the entry, if the disk still has what memory has.
    fn check(&mut self, index: u64, sector: Result<[u8; SECTOR], Failed>) -> Result<Entry, Refusal> {
        let Ok(sector) = sector else { return Err(Refusal::Disk) };
        let kept = *self.kept(index as u32);
        let expected = Entry { index, client: kept.client, seq: kept.seq, payload: kept.payload };
        if sector == expected.to_sector() {
            return Ok(expected);
        }
        self.corrupt = true;
        Err(Refusal::Disk)
    }

    fn keep(&mut self, entry: &Entry) {
        let index = self.len as u32;
        let previous = self.clients.insert(entry.client, index).unwrap_or(NONE);
        if self.len.is_multiple_of(PIECE as u64) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let kept = Kept { seq: entry.seq, payload: entry.payload, client: entry.client, previous };
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(kept);
        }
        self.len += 1;
    }

    fn kept(&self, index: u32) -> &Kept {
        &self.pieces[index as usize / PIECE][index as usize % PIECE]
    }

    /// The entry of a client that has this number, at or before its entry `from`.
    fn find(&self, mut from: u32, seq: u64) -> Option<u32> {
        while from != NONE {
            let kept = self.kept(from);
            if kept.seq <= seq {
                return (kept.seq == seq).then_some(from);
            }
            from = kept.previous;
        }
        None
    }

    fn read_now(&mut self, sector: u64, bells: &mut Doorbells) -> [u8; SECTOR] {
        self.disk.read(sector);
        self.wait(bells).1.unwrap_or_else(|_| panic!("the disk cannot read sector {sector}"))
    }

    fn write_now(&mut self, sector: u64, data: &[u8; SECTOR], bells: &mut Doorbells) {
        self.disk.write(sector, data);
        self.wait(bells).1.unwrap_or_else(|_| panic!("the disk cannot write sector {sector}"));
    }

    /// Sleeps until a request is completed. For times when nobody else waits for one.
    fn wait(&mut self, bells: &mut Doorbells) -> (Ticket, Result<[u8; SECTOR], Failed>) {
        loop {
            if let Some((ticket, result)) = self.disk.completed() {
                return (ticket, result.copied());
            }
            self.ring(bells);
            bells.flush_and_sleep();
        }
    }
}
