//! What a driver asks for in one chain (virtio 1.2, 5.2.6).

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use vm_memory::{Address, GuestAddress};

use super::SECTOR_BYTES;
use crate::Memory;
use crate::virtio::{Chain, Segment, gather, length};

/// Type, reserved, sector: in the first bytes that the device reads, however the driver cuts them up (2.7.4).
pub(super) const HEADER_BYTES: usize = 16;
/// Most bytes of one request. Linux asks for 1.25 MiB at most, unless told otherwise.
pub(super) const REQUEST_BYTES_MAX: usize = 16 << 20;

/// What a disk can be asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) block_bytes: u32,
    pub(super) read_only: bool,
}

/// What the driver asks for. Offsets are in bytes and in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Read {
        offset: u64,
        bytes: usize,
    },
    Write {
        offset: u64,
        bytes: usize,
    },
    Flush,
    Identify,
    /// Answered with VIRTIO_BLK_S_UNSUPP.
    Unknown,
    /// Answered with VIRTIO_BLK_S_IOERR, and why.
    Impossible(&'static str),
}

/// A wish, and where its status byte goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) wish: Wish,
    pub(super) status: GuestAddress,
}

impl Request {
    /// # Errors
    /// The chain is no request: it cannot even be answered.
    pub(super) fn parse(memory: &Memory, chain: &Chain, limits: Limits) -> Result<Request, &'static str> {
        let mut header = [0; HEADER_BYTES];
        if gather(memory, &chain.readable, 0, &mut header).ok() != Some(HEADER_BYTES) {
            return Err("a request without a whole header");
        }
        let status = last_byte(&chain.writable).ok_or("a request without a place for its status")?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        let written = length(&chain.writable) - 1;
        let read = length(&chain.readable) - HEADER_BYTES;
        let wish = match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => limits.place(sector, written).map(|offset| Wish::Read { offset, bytes: written }),
            VIRTIO_BLK_T_OUT if limits.read_only => Err("a write to a disk that is read-only"),
            VIRTIO_BLK_T_OUT => limits.place(sector, read).map(|offset| Wish::Write { offset, bytes: read }),
            VIRTIO_BLK_T_FLUSH => Ok(Wish::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Wish::Identify),
            _ => Ok(Wish::Unknown),
        };
        Ok(Request { wish: wish.unwrap_or_else(Wish::Impossible), status })
    }
}

impl Limits {
    /// Where in the image `bytes` from `sector` are, if they are there.
    fn place(self, sector: u64, bytes: usize) -> Result<u64, &'static str> {
        if bytes > REQUEST_BYTES_MAX {
            return Err("more bytes than one request may have");
        }
        let offset = sector.checked_mul(SECTOR_BYTES).ok_or("past the end of the disk")?;
        let end = offset.checked_add(bytes as u64).ok_or("past the end of the disk")?;
        if end > self.bytes {
            return Err("past the end of the disk");
        }
        let block = u64::from(self.block_bytes);
        if bytes == 0 || !offset.is_multiple_of(block) || !end.is_multiple_of(block) {
            return Err("not whole blocks of the disk");
        }
        Ok(offset)
    }
}

fn last_byte(segments: &[Segment]) -> Option<GuestAddress> {
    let last = segments.iter().rev().find(|segment| segment.bytes > 0)?;
    last.address.checked_add(u64::from(last.bytes - 1))
}
