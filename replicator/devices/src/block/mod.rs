//! virtio-blk (virtio 1.2, section 5.2) on a raw file or a block device.
//!
//! A write is copied when it is taken and becomes [`Output`], and so does a flush. Released, they go to the I/O thread; only when that
//! is done with them does the guest get its chain back. So the chains taken *are* what is held or in flight, and a standby that takes over
//! does them again: whatever of it had reached the disk is written there once more, with the same content.
//!
//! A read is not held. It goes to the I/O thread when no write of the same sectors is before it, and reaches guest memory (and the
//! set of dirty pages) when it completes, on the event loop.

mod buffer;
mod device;
mod door;
mod image;
mod outcome;
mod patience;
mod request;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use device::KIND;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use kemari_core::sabotage::{self, Bug};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::output::Payload;
use crate::virtio::{Chain, Model, Segment, Ticket, Transport, gather, length, scatter};
use crate::{DeviceId, Memory, Output, OutputKind};
use buffer::Buffer;
pub use door::{
    DiskError, DiskFailure, DiskFault, DiskOperation, DiskOptions, DiskStats, ImageId, Images, OnDiskError,
};
use image::Image;
use patience::Patience;
use request::{Limits, Request, Wish};
use worker::{Completion, Job, RequestId, Work, Worker};

const SECTOR_BYTES: u64 = 512;
/// VIRTIO_BLK_ID_BYTES (virtio 1.2, 5.2.6).
const SERIAL_BYTES: usize = 20;

const QUEUE: usize = 0;
const QUEUE_SIZES: [u16; 1] = [256];
/// Segments of data in one request: the queue's size less header and status.
const SEGMENTS_MAX: u32 = QUEUE_SIZES[QUEUE] as u32 - 2;
/// Index of the I/O thread among the sources; that of the queue goes before.
const DONE: u8 = QUEUE_SIZES.len() as u8;
/// The timer behind it, if a request may not take as long as it likes.
const TIMER: u8 = DONE + 1;

/// Above these the disk takes nothing more until something is done. One request may exceed the bytes.
const PENDING_BYTES_MAX: usize = 32 << 20;
/// A queue cannot have more, but a driver that resets the disk again and again can.
const PENDING_MAX: usize = 1024;

/// A write or flush that leaves the guest.
#[derive(Debug)]
pub(crate) struct BlockOutput(Job);

impl BlockOutput {
    pub(crate) fn kind(&self) -> OutputKind {
        match self.0.work {
            Work::Write { .. } => OutputKind::Write,
            Work::Read { .. } | Work::Flush => OutputKind::Flush,
        }
    }

    pub(crate) fn data_bytes(&self) -> usize {
        match &self.0.work {
            Work::Write { buffer, .. } | Work::Read { buffer, .. } => buffer.len(),
            Work::Flush => 0,
        }
    }
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A write or flush at the gate.
    Held,
    /// A read behind a write of the same sectors.
    Waiting,
    /// With the I/O thread.
    InFlight,
}

#[derive(Debug)]
enum Kind {
    /// With the buffers for the data (and for the status, which follows).
    Read(Vec<Segment>),
    Write,
    Flush,
}

/// A request that was taken and not answered.
#[derive(Debug)]
struct Pending {
    kind: Kind,
    stage: Stage,
    /// In bytes; empty for a flush.
    range: Range<u64>,
    ticket: Ticket,
    status: GuestAddress,
    /// Only by sabotage: the guest believes that it is done.
    answered: bool,
}

impl Pending {
    fn bytes(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    fn is_write_over(&self, range: &Range<u64>) -> bool {
        matches!(self.kind, Kind::Write) && self.range.start < range.end && range.start < self.range.end
    }
}

/// A disk of the guest.
pub struct Disk {
    id: DeviceId,
    path: PathBuf,
    image_id: ImageId,
    serial: [u8; SERIAL_BYTES],
    limits: Limits,
    transport: Arc<Transport>,
    worker: Worker,
    patience: Option<Patience>,
    started: bool,
    backpressure: bool,
    next_id: RequestId,
    /// In the order they were taken. Output and completions of a request that is not here (any more) are nobody's.
    pending: BTreeMap<RequestId, Pending>,
    pending_bytes: usize,
    /// Released while stopped, or not begun when it was. They go out if the disk is started again; a load forgets them.
    parked: Vec<Job>,
    /// Completed while stopped.
    completed: Vec<Completion>,
    on_error: OnDiskError,
    /// The request that has failed or is overdue, and must succeed before anything else happens.
    stuck: Option<RequestId>,
    /// Its job, unless the I/O thread has it.
    failed: Option<Job>,
    /// Whether the guest is owed an interrupt.
    owes_interrupt: bool,
    chain: Chain,
    stats: DiskStats,
}

impl Disk {
    /// Opens the image (O_DIRECT; nothing is read) and makes the disk, stopped. `irq` is the irqfd of its interrupt line.
    /// The image is not locked: both nodes have it open, and the cluster decides which of them writes.
    ///
    /// # Errors
    /// The image does not exist, cannot be opened, or is where O_DIRECT does not work.
    pub fn new(id: DeviceId, memory: Memory, irq: EventFd, options: &DiskOptions) -> Result<Disk, DiskError> {
        let (serial, Image { file, bytes, block_bytes, id: image_id }) = opened(options)?;
        let limits = Limits { bytes, block_bytes, read_only: options.read_only };
        let path = options.path.clone();
        let failed = |source| DiskError::Start { path: options.path.clone(), source };
        let transport = Transport::new(model(path.display().to_string(), limits), memory, irq).map_err(failed)?;
        let halts = options.on_error != OnDiskError::Report;
        let worker = Worker::start(format!("disk {}", id.0), halts, move |work| work.perform(&file)).map_err(failed)?;
        Ok(Disk {
            id,
            path,
            image_id,
            serial,
            limits,
            transport: Arc::new(transport),
            worker,
            patience: options.timeout_s.map(Patience::new).transpose().map_err(failed)?,
            started: false,
            backpressure: false,
            next_id: RequestId(0),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            parked: Vec::new(),
            completed: Vec::new(),
            on_error: options.on_error,
            stuck: None,
            failed: None,
            owes_interrupt: false,
            chain: Chain::default(),
            stats: DiskStats::default(),
        })
    }

    /// Opens the image as [`new`](Disk::new) would, and makes nothing of it.
    ///
    /// # Errors
    /// As `new`.
    pub fn check(options: &DiskOptions) -> Result<ImageId, DiskError> {
        opened(options).map(|(_, image)| image.id)
    }

    /// Which image it is.
    #[must_use]
    pub fn image_id(&self) -> ImageId {
        self.image_id
    }

    /// Size of the image.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.limits.bytes
    }

    /// The unit the guest must read and write in: part of the layout that both nodes must agree on.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.limits.block_bytes
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        let mut stats = self.stats;
        for pending in self.pending.values() {
            let is_read = matches!(pending.kind, Kind::Read(_));
            *match (pending.stage, is_read) {
                (Stage::Held, _) => &mut stats.held,
                (Stage::Waiting, _) => &mut stats.waiting_reads,
                (Stage::InFlight, true) => &mut stats.reads_in_flight,
                (Stage::InFlight, false) => &mut stats.writes_in_flight,
            } += 1;
        }
        stats
    }

    /// Takes requests for as long as there is room for them: no more at once than fit the queue, so that a guest that asks for
    /// what is answered at once does not keep the event loop.
    fn take(&mut self, outputs: &mut Vec<Output>) {
        for _ in 0..QUEUE_SIZES[QUEUE] {
            if !self.started
                || self.backpressure
                || self.pending.len() >= PENDING_MAX
                || self.pending_bytes >= PENDING_BYTES_MAX
            {
                return;
            }
            let Some(mut session) = self.transport.session() else { return };
            let Some(ticket) = session.take(QUEUE, &mut self.chain) else { return };
            let durable = !session.negotiated(VIRTIO_BLK_F_FLUSH);
            match Request::parse(session.memory(), &self.chain, self.limits) {
                Ok(request) => {
                    drop(session);
                    self.begin(ticket, request, durable, outputs);
                }
                Err(what) => session.fail(QUEUE, what),
            }
        }
        self.transport.kick(QUEUE);
    }

    fn begin(&mut self, ticket: Ticket, request: Request, durable: bool, outputs: &mut Vec<Output>) {
        let Request { wish, status } = request;
        match wish {
            Wish::Read { offset, bytes } => {
                let kind = Kind::Read(self.chain.writable.clone());
                self.remember(kind, Stage::Waiting, offset..offset + bytes as u64, ticket, status);
                self.submit_reads();
            }
            Wish::Write { offset, bytes } => self.begin_write(ticket, status, (offset, bytes), durable, outputs),
            Wish::Flush => {
                let id = self.remember(Kind::Flush, Stage::Held, 0..0, ticket, status);
                self.hold(Job { id, work: Work::Flush }, outputs);
            }
            Wish::Identify => {
                let place = std::mem::take(&mut self.chain.writable);
                // The last byte is the status.
                let room = length(&place) - 1;
                let serial = self.serial;
                self.answer(ticket, status, VIRTIO_BLK_S_OK, &place, &serial[..room.min(SERIAL_BYTES)]);
            }
            Wish::Unknown => self.answer(ticket, status, VIRTIO_BLK_S_UNSUPP, &[], &[]),
            Wish::Impossible(why) => {
                log::debug!("disk {}: request refused: {why}", self.path.display());
                self.stats.errors += 1;
                self.answer(ticket, status, VIRTIO_BLK_S_IOERR, &[], &[]);
            }
        }
    }

    fn begin_write(
        &mut self,
        ticket: Ticket,
        status: GuestAddress,
        (offset, bytes): (u64, usize),
        durable: bool,
        outputs: &mut Vec<Output>,
    ) {
        let mut buffer = Buffer::zeroed(bytes);
        let got = gather(self.transport.memory(), &self.chain.readable, request::HEADER_BYTES, &mut buffer);
        if got.ok() != Some(bytes) {
            self.stats.errors += 1;
            return self.answer(ticket, status, VIRTIO_BLK_S_IOERR, &[], &[]);
        }
        let id = self.remember(Kind::Write, Stage::Held, offset..offset + bytes as u64, ticket, status);
        let job = Job { id, work: Work::Write { offset, buffer, durable } };
        if sabotage::planted(Bug::AnswerWriteEarly) {
            self.answer(ticket, status, VIRTIO_BLK_S_OK, &[], &[]);
            self.pending.entry(id).and_modify(|pending| pending.answered = true);
            return self.submit(job);
        }
        self.hold(job, outputs);
    }

    fn remember(
        &mut self,
        kind: Kind,
        stage: Stage,
        range: Range<u64>,
        ticket: Ticket,
        status: GuestAddress,
    ) -> RequestId {
        let id = self.next_id;
        self.next_id = RequestId(id.0 + 1);
        let pending = Pending { kind, stage, range, ticket, status, answered: false };
        self.pending_bytes += pending.bytes();
        self.pending.insert(id, pending);
        id
    }

    fn hold(&self, job: Job, outputs: &mut Vec<Output>) {
        outputs.push(Output::new(self.id, Payload::Block(BlockOutput(job))));
    }

    fn submit(&mut self, job: Job) {
        if let Some(pending) = self.pending.get_mut(&job.id) {
            pending.stage = Stage::InFlight;
            self.worker.submit(job);
            self.patience.iter_mut().for_each(Patience::watch);
        }
    }

    /// Hands over the reads that no earlier write of the same sectors is in the way of.
    fn submit_reads(&mut self) {
        let is_free = |id: RequestId, range: &Range<u64>| {
            !self.pending.range(..id).any(|(_, earlier)| earlier.is_write_over(range))
        };
        let free: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.stage == Stage::Waiting)
            .filter(|(id, pending)| is_free(**id, &pending.range))
            .map(|(id, pending)| (*id, pending.range.start, pending.bytes()))
            .collect();
        for (id, offset, bytes) in free {
            self.submit(Job { id, work: Work::Read { offset, buffer: Buffer::zeroed(bytes) } });
        }
    }

    /// Gives a chain back with its status and, for a read, with `data` in its buffers; unless the driver has reset the disk since.
    fn answer(&mut self, ticket: Ticket, status_at: GuestAddress, status: u32, place: &[Segment], data: &[u8]) {
        let Some(mut session) = self.transport.session() else { return };
        if !session.is_current(ticket) {
            return;
        }
        let memory = session.memory();
        let written = scatter(memory, place, 0, data)
            .and_then(|written| memory.write_obj(status as u8, status_at).map(|()| written as u32 + 1));
        match written {
            Ok(written) => self.owes_interrupt |= session.finish(ticket, written),
            // Cannot be: the chain was checked when it was taken, and guest memory does not change.
            Err(error) => session.fail(QUEUE, &error.to_string()),
        }
    }
}

fn model(name: String, limits: Limits) -> Model {
    let bit = |on, feature: u32| if on { 1 << feature } else { 0 };
    // virtio_blk_config: capacity, size_max, seg_max, geometry, blk_size.
    let mut config = (limits.bytes / SECTOR_BYTES).to_le_bytes().to_vec();
    for field in [0, SEGMENTS_MAX, 0, limits.block_bytes] {
        config.extend(field.to_le_bytes());
    }
    Model {
        name: format!("disk {name}"),
        device_type: VIRTIO_ID_BLOCK,
        features: 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | bit(limits.read_only, VIRTIO_BLK_F_RO)
            | bit(u64::from(limits.block_bytes) != SECTOR_BYTES, VIRTIO_BLK_F_BLK_SIZE),
        queue_sizes: &QUEUE_SIZES,
        config,
    }
}

/// The serial number as the guest gets it, and the image.
fn opened(options: &DiskOptions) -> Result<([u8; SERIAL_BYTES], Image), DiskError> {
    let DiskOptions { path, serial, read_only, .. } = options;
    if !is_serial_number(serial) {
        return Err(DiskError::Serial { path: path.clone(), serial: serial.clone() });
    }
    let mut padded = [0; SERIAL_BYTES];
    padded.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
    Ok((padded, Image::open(path, *read_only)?))
}

/// Whether a disk can have this serial number: 1 to 20 printable characters, without spaces.
#[must_use]
pub fn is_serial_number(serial: &str) -> bool {
    (1..=SERIAL_BYTES).contains(&serial.len()) && serial.bytes().all(|byte| byte.is_ascii_graphic())
}
