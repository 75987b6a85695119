//! The disk: sector reads and writes and flushes, several at once, nothing ever waited for but at boot and at the end.

use crate::cpu::Doorbells;
use crate::ledger::READS;
use crate::memory::{self, Hal};
use crate::virtio::Device;
use core::ptr::{self, NonNull};
use core::slice;
use kemari_guest::wire::{APPENDS_IN_FLIGHT, SECTOR};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

/// Features worth having: VIRTIO_BLK_F_FLUSH.
pub(crate) const WANTED: u64 = 1 << 9;

/// All the appends, one flush, and the reads for clients.
const REQUESTS: usize = APPENDS_IN_FLIGHT + 1 + READS;
/// A power of two, for three descriptors each.
const DESCRIPTORS: usize = 128;
const QUEUE: u16 = 0;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const STATUS_OK: u8 = 0;
/// What the device overwrites.
const STATUS_NONE: u8 = 0xff;

/// The device could not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// Names a request until it is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u8);

/// Header, status and data of one request, where the device finds them: four in a page.
#[repr(C, align(1024))]
struct Request {
    data: [u8; SECTOR],
    header: [u8; 16],
    status: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

/// The disk.
pub(crate) struct Disk {
    device: Device,
    queue: VirtQueue<Hal, DESCRIPTORS>,
    requests: NonNull<Request>,
    /// What each request is for, while it is taken.
    kinds: [Option<Kind>; REQUESTS],
    /// Which request a head descriptor belongs to.
    carried: [u8; DESCRIPTORS],
    queued: bool,
    sectors: u64,
}

impl Disk {
    /// Starts the device.
    pub(crate) fn new(mut device: Device) -> Self {
        let queue = VirtQueue::new(&mut device.transport, QUEUE, false, false)
            .unwrap_or_else(|e| panic!("disk queue of {DESCRIPTORS}: {e}"));
        device.transport.finish_init();
        let half = |at| device.transport.read_config_space::<u32>(at).map(u64::from);
        let sectors = device.transport.read_consistent(|| Ok(half(0)? | half(4)? << 32));
        let sectors = sectors.unwrap_or_else(|e| panic!("disk size: {e}"));
        let requests = memory::zeroed(REQUESTS * size_of::<Request>(), memory::PAGE).cast();
        let (kinds, carried) = ([None; REQUESTS], [0; DESCRIPTORS]);
        Self { device, queue, requests, kinds, carried, queued: false, sectors }
    }

    /// Sectors of 512 bytes it has.
    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether the device can flush; if not, a completed write is on stable storage.
    pub(crate) fn can_flush(&self) -> bool {
        self.device.features & WANTED != 0
    }

    /// Starts to read a sector; `None` when too much is under way.
    pub(crate) fn read(&mut self, sector: u64) -> Option<Ticket> {
        self.submit(Kind::Read, sector, None)
    }

    /// Starts to write a sector; `None` when too much is under way.
    pub(crate) fn write(&mut self, sector: u64, data: &[u8; SECTOR]) -> Option<Ticket> {
        self.submit(Kind::Write, sector, Some(data))
    }

    /// Starts to flush the writes completed by now; `None` when too much is under way.
    pub(crate) fn flush(&mut self) -> Option<Ticket> {
        self.submit(Kind::Flush, 0, None)
    }

    fn submit(&mut self, kind: Kind, sector: u64, data: Option<&[u8; SECTOR]>) -> Option<Ticket> {
        let index = self.kinds.iter().position(Option::is_none)?;
        let request = self.request(index);
        let code = match kind {
            Kind::Read => TYPE_IN,
            Kind::Write => TYPE_OUT,
            Kind::Flush => TYPE_FLUSH,
        };
        request.header[..4].copy_from_slice(&code.to_le_bytes());
        request.header[8..].copy_from_slice(&sector.to_le_bytes());
        request.status = STATUS_NONE;
        if let Some(data) = data {
            request.data = *data;
        }
        let Request { data, header, status } = request;
        // SAFETY: the request stays, and is not touched until `completed` has taken it back.
        let token = unsafe {
            match kind {
                Kind::Read => self.queue.add(&[header], &mut [data, slice::from_mut(status)]),
                Kind::Write => self.queue.add(&[header, data], &mut [slice::from_mut(status)]),
                Kind::Flush => self.queue.add(&[header], &mut [slice::from_mut(status)]),
            }
        };
        let token = token.expect("three descriptors for each request");
        self.kinds[index] = Some(kind);
        self.carried[usize::from(token)] = index as u8;
        self.queued = true;
        Some(Ticket(index as u8))
    }

    /// The next request the device has completed, how it went, and (of a read) what was there.
    pub(crate) fn completed(&mut self) -> Option<(Ticket, Result<&[u8; SECTOR], Failed>)> {
        let token = self.queue.peek_used()?;
        let index = usize::from(*self.carried.get(usize::from(token))?);
        let kind = self.kinds[index].take()?;
        let Request { data, header, status } = self.request(index);
        // SAFETY: the parts given with this token, the same way round.
        let popped = unsafe {
            match kind {
                Kind::Read => self.queue.pop_used(token, &[header], &mut [data, slice::from_mut(status)]),
                Kind::Write => self.queue.pop_used(token, &[header, data], &mut [slice::from_mut(status)]),
                Kind::Flush => self.queue.pop_used(token, &[header], &mut [slice::from_mut(status)]),
            }
        };
        popped.unwrap_or_else(|e| panic!("disk queue: {e}"));
        // SAFETY: the device wrote it behind the compiler's back.
        let status = unsafe { ptr::from_ref(status).read_volatile() };
        Some((Ticket(index as u8), if status == STATUS_OK { Ok(data) } else { Err(Failed) }))
    }

    /// Tells the device what it has to know.
    pub(crate) fn ring(&mut self, bells: &mut Doorbells) {
        if core::mem::take(&mut self.queued) && self.queue.should_notify() {
            bells.ring(self.device.notify, u32::from(QUEUE));
        }
    }

    /// The parts of one request. Callers have only one at a time, and none that the device has.
    fn request(&mut self, index: usize) -> &'static mut Request {
        assert!(index < REQUESTS);
        // SAFETY: inside the allocation of `new`, zeroed and never freed; unique by the rule above.
        unsafe { self.requests.add(index).as_mut() }
    }
}
