//! Descriptor chains: what a driver offers in one go.
//!
//! virtio-queue's own iterator begins at the avail ring and ends without a word where a chain is malformed. Here a chain must
//! be found from its head alone (after a load, the avail ring may have moved on), and what is malformed must be told apart.

use std::mem::size_of;

use virtio_queue::Queue;
use virtio_queue::QueueT;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions};

use crate::Memory;

/// One buffer of a chain. In a [`Chain`] it lies in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) address: GuestAddress,
    pub(crate) bytes: u32,
}

/// The buffers of one chain: those the device reads, and those it writes.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(crate) readable: Vec<Segment>,
    pub(crate) writable: Vec<Segment>,
}

/// How a driver broke the rules.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChainError {
    #[error("a descriptor lies outside of its table")]
    OutsideTable,
    #[error("more descriptors than the queue has: the chain is a loop")]
    Loop,
    #[error("an indirect table that is nested, chained, empty, cut short or not negotiated")]
    Indirect,
    #[error("a buffer to be read follows one to be written")]
    Order,
    #[error("a buffer or table at {0:#x} lies outside of guest memory")]
    OutsideMemory(u64),
    #[error("more than 4 GiB in one chain")]
    TooLong,
}

const DESCRIPTOR_BYTES: u32 = size_of::<Descriptor>() as u32;

/// A descriptor table: that of the queue, or an indirect one.
struct Table {
    address: GuestAddress,
    entries: u16,
}

impl Table {
    fn load(&self, memory: &Memory, index: u16) -> Result<Descriptor, ChainError> {
        if index >= self.entries {
            return Err(ChainError::OutsideTable);
        }
        let offset = u64::from(index) * u64::from(DESCRIPTOR_BYTES);
        let outside = || ChainError::OutsideMemory(self.address.0);
        let address = self.address.checked_add(offset).ok_or_else(outside)?;
        memory.read_obj(address).map_err(|_| outside())
    }

    /// The table that an indirect descriptor points to (virtio 1.2, 2.7.5.3).
    fn indirect(descriptor: &Descriptor, queue_size: u16) -> Result<Table, ChainError> {
        let entries = descriptor.len() / DESCRIPTOR_BYTES;
        let whole = descriptor.len().is_multiple_of(DESCRIPTOR_BYTES);
        if !whole || entries == 0 || entries > u32::from(queue_size) || descriptor.has_next() {
            return Err(ChainError::Indirect);
        }
        Ok(Table { address: descriptor.addr(), entries: entries as u16 })
    }
}

impl Chain {
    /// Reads the chain that begins at `head` in place of what is here. The descriptors are read once, so the driver cannot
    /// change what was checked.
    pub(crate) fn walk(
        &mut self,
        memory: &Memory,
        queue: &Queue,
        head: u16,
        allow_indirect: bool,
    ) -> Result<(), ChainError> {
        self.readable.clear();
        self.writable.clear();
        let mut table = Table { address: GuestAddress(queue.desc_table()), entries: queue.size() };
        let mut may_switch = allow_indirect;
        let mut index = head;
        let mut total = 0u32;
        // A chain, indirect or not, is never longer than the queue (2.7.5.3.1); one more for the descriptor of the table.
        for _ in 0..=queue.size() {
            let descriptor = table.load(memory, index)?;
            if descriptor.refers_to_indirect_table() {
                if !may_switch {
                    return Err(ChainError::Indirect);
                }
                table = Table::indirect(&descriptor, queue.size())?;
                may_switch = false;
                index = 0;
                continue;
            }
            total = total.checked_add(descriptor.len()).ok_or(ChainError::TooLong)?;
            self.push(memory, &descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(ChainError::Loop)
    }

    fn push(&mut self, memory: &Memory, descriptor: &Descriptor) -> Result<(), ChainError> {
        let segment = Segment { address: descriptor.addr(), bytes: descriptor.len() };
        let access = if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
        if !memory.check_range(segment.address, segment.bytes as usize, access) {
            return Err(ChainError::OutsideMemory(segment.address.0));
        }
        if descriptor.is_write_only() {
            self.writable.push(segment);
        } else if self.writable.is_empty() {
            self.readable.push(segment);
        } else {
            return Err(ChainError::Order);
        }
        Ok(())
    }
}

/// Bytes in all the segments.
pub(crate) fn length(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| segment.bytes as usize).sum()
}

/// Fills `into` from guest memory, beginning `skip` bytes into the segments. Returns how many bytes there were.
pub(crate) fn gather(
    memory: &Memory,
    segments: &[Segment],
    skip: usize,
    into: &mut [u8],
) -> Result<usize, GuestMemoryError> {
    each_piece(segments, skip, into.len(), |address, range| memory.read_slice(&mut into[range], address))
}

/// Copies `from` to guest memory, beginning `skip` bytes into the segments. Returns for how many bytes there was room.
pub(crate) fn scatter(
    memory: &Memory,
    segments: &[Segment],
    skip: usize,
    from: &[u8],
) -> Result<usize, GuestMemoryError> {
    each_piece(segments, skip, from.len(), |address, range| memory.write_slice(&from[range], address))
}

/// Calls `copy` with each contiguous piece of guest memory and the range of the buffer that belongs to it.
fn each_piece(
    segments: &[Segment],
    mut skip: usize,
    wanted: usize,
    mut copy: impl FnMut(GuestAddress, std::ops::Range<usize>) -> Result<(), GuestMemoryError>,
) -> Result<usize, GuestMemoryError> {
    let mut done = 0;
    for segment in segments {
        let bytes = segment.bytes as usize;
        if skip >= bytes {
            skip -= bytes;
            continue;
        }
        let piece = (bytes - skip).min(wanted - done);
        if piece == 0 {
            break;
        }
        let address =
            segment.address.checked_add(skip as u64).ok_or(GuestMemoryError::InvalidGuestAddress(segment.address))?;
        copy(address, done..done + piece)?;
        done += piece;
        skip = 0;
    }
    Ok(done)
}
