//! A machine with one disk, and a driver for it.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use kemari_core::{Acknowledgement, Consent, ConsentReason, Epoch, Gate, Generation, Sealed};
use tempfile::TempDir;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use virtio_bindings::virtio_mmio::*;
use vm_memory::GuestMemoryBackend;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::super::*;
use crate::{Device, DeviceEvent, SourceId};

pub(super) const ID: DeviceId = DeviceId(2);
pub(super) const MEMORY_BYTES: usize = 4 << 20;
pub(super) const IMAGE_SECTORS: u64 = 256;

pub(super) const TABLE: u64 = 0x1000;
pub(super) const AVAIL: u64 = 0x3000;
pub(super) const USED: u64 = 0x4000;
/// Where the buffers of a request are, by its slot: header, status, data.
const SLOTS: u64 = 0x10000;
const SLOT_BYTES: u64 = 0x4000;
const STATUS_AT: u64 = 0x20;
const DATA_AT: u64 = 0x1000;

const NEXT: u16 = 1;
const WRITABLE: u16 = 2;
const UNANSWERED: u8 = 0xee;

pub(super) fn generation() -> Generation {
    Generation { number: 1, id: 1 }
}

/// A directory where O_DIRECT works.
pub(super) fn directory() -> TempDir {
    let candidates = [std::env::temp_dir(), "/var/tmp".into(), env!("CARGO_MANIFEST_DIR").into()];
    let works = |room: &TempDir| {
        let probe = room.path().join("probe");
        std::fs::write(&probe, [0; 4096]).expect("probe");
        !matches!(Image::open(&probe, false), Err(DiskError::NoDirectIo { .. }))
    };
    let mut rooms = candidates.into_iter().filter_map(|path| tempfile::tempdir_in(path).ok());
    rooms.find(works).expect("no directory for tests supports O_DIRECT; set TMPDIR to one on ext4 or xfs")
}

/// An image in which every sector is full of its number's low byte.
pub(super) fn image(room: &TempDir) -> PathBuf {
    let path = room.path().join("image");
    let bytes: Vec<u8> = (0..IMAGE_SECTORS).flat_map(|sector| [sector as u8; 512]).collect();
    std::fs::write(&path, bytes).expect("image");
    path
}

pub(super) fn sector(path: &Path, number: u64) -> u8 {
    let mut bytes = [0; 512];
    std::fs::File::open(path).and_then(|file| file.read_exact_at(&mut bytes, number * 512)).expect("image");
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "sector {number} is torn");
    bytes[0]
}

pub(super) use std::path::Path;

pub(super) struct Rig {
    pub(super) disk: Disk,
    pub(super) memory: Memory,
    pub(super) irq: EventFd,
    pub(super) gate: Gate<Output>,
    pub(super) events: Vec<DeviceEvent>,
    next_avail: u16,
    seen_used: u16,
}

impl Rig {
    pub(super) fn new(path: &Path, read_only: bool) -> Rig {
        Rig::with(path, read_only, OnDiskError::Report)
    }

    pub(super) fn with(path: &Path, read_only: bool, on_error: OnDiskError) -> Rig {
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("memory");
        let irq = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let (path, serial) = (path.to_owned(), "serial-7".to_owned());
        let options = DiskOptions { path, serial, read_only, on_error, timeout_s: Some(1) };
        let disk = Disk::new(ID, memory.clone(), irq.try_clone().expect("eventfd"), &options).expect("disk");
        let gate = Gate::new(generation(), Epoch::FIRST, 1 << 20);
        Rig { disk, memory, irq, gate, events: Vec::new(), next_avail: 0, seen_used: 0 }
    }

    /// One whose driver is at work.
    pub(super) fn running(path: &Path) -> Rig {
        let mut rig = Rig::new(path, false);
        rig.disk.start();
        rig.drive(1 << VIRTIO_BLK_F_FLUSH);
        rig
    }

    pub(super) fn register(&self, offset: u32, value: u32) {
        self.disk.bus().write(u64::from(offset), &value.to_le_bytes());
    }

    pub(super) fn status(&self) -> u32 {
        let mut bytes = [0; 4];
        self.disk.bus().read(u64::from(VIRTIO_MMIO_STATUS), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// What a driver does at its start.
    pub(super) fn drive(&mut self, features: u32) {
        self.register(VIRTIO_MMIO_STATUS, 0);
        self.memory.write_slice(&[0; 0x4000], GuestAddress(TABLE)).expect("memory");
        (self.next_avail, self.seen_used) = (0, 0);
        let setup = [
            (VIRTIO_MMIO_STATUS, 3),
            (VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0),
            (VIRTIO_MMIO_DRIVER_FEATURES, features),
            (VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1),
            (VIRTIO_MMIO_DRIVER_FEATURES, 1),
            (VIRTIO_MMIO_STATUS, 11),
            (VIRTIO_MMIO_QUEUE_SEL, 0),
            (VIRTIO_MMIO_QUEUE_NUM, 256),
            (VIRTIO_MMIO_QUEUE_DESC_LOW, TABLE as u32),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAIL as u32),
            (VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32),
            (VIRTIO_MMIO_QUEUE_READY, 1),
            (VIRTIO_MMIO_STATUS, 15),
        ];
        setup.into_iter().for_each(|(offset, value)| self.register(offset, value));
        assert_eq!(self.status(), 15, "the driver is accepted");
    }

    pub(super) fn put<T: vm_memory::ByteValued>(&self, value: T, address: u64) {
        self.memory.write_obj(value, GuestAddress(address)).expect("memory");
    }

    pub(super) fn get<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).expect("memory")
    }

    pub(super) fn descriptor(&self, index: u16, (address, bytes): (u64, u32), flags: u16, next: u16) {
        let at = TABLE + u64::from(index) * 16;
        self.put(address, at);
        self.put(bytes, at + 8);
        self.put(flags, at + 12);
        self.put(next, at + 14);
    }

    /// Puts a chain into the avail ring.
    pub(super) fn offer_head(&mut self, head: u16) {
        self.put(head, AVAIL + 4 + u64::from(self.next_avail % 256) * 2);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.put(self.next_avail, AVAIL + 2);
    }

    /// Offers a request by three descriptors; `slot` names it. `data` is what the guest has in its buffer.
    pub(super) fn offer(&mut self, slot: u16, kind: u32, sector: u64, data: &[u8]) {
        let base = SLOTS + u64::from(slot) * SLOT_BYTES;
        self.put(kind, base);
        self.put(sector, base + 8);
        self.put(UNANSWERED, base + STATUS_AT);
        self.memory.write_slice(data, GuestAddress(base + DATA_AT)).expect("memory");
        let (head, is_out) = (slot * 3, kind == VIRTIO_BLK_T_OUT);
        let after_header = if data.is_empty() { head + 2 } else { head + 1 };
        self.descriptor(head, (base, 16), NEXT, after_header);
        let flags = if is_out { NEXT } else { NEXT | WRITABLE };
        self.descriptor(head + 1, (base + DATA_AT, data.len() as u32), flags, head + 2);
        self.descriptor(head + 2, (base + STATUS_AT, 1), WRITABLE, 0);
        self.offer_head(head);
    }

    pub(super) fn write(&mut self, slot: u16, sector: u64, value: u8) {
        self.offer(slot, VIRTIO_BLK_T_OUT, sector, &[value; 512]);
    }

    pub(super) fn read(&mut self, slot: u16, sector: u64) {
        self.offer(slot, VIRTIO_BLK_T_IN, sector, &[UNANSWERED; 512]);
    }

    pub(super) fn flush(&mut self, slot: u16) {
        self.offer(slot, VIRTIO_BLK_T_FLUSH, 0, &[]);
    }

    pub(super) fn status_of(&self, slot: u16) -> u8 {
        self.get(SLOTS + u64::from(slot) * SLOT_BYTES + STATUS_AT)
    }

    pub(super) fn data_of(&self, slot: u16, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        let base = SLOTS + u64::from(slot) * SLOT_BYTES;
        self.memory.read_slice(&mut data, GuestAddress(base + DATA_AT)).expect("memory");
        data
    }

    /// Slots that came back since the last call.
    pub(super) fn used(&mut self) -> Vec<u16> {
        let index: u16 = self.get(USED + 2);
        let mut slots = Vec::new();
        while self.seen_used != index {
            let head: u32 = self.get(USED + 4 + u64::from(self.seen_used % 256) * 8);
            slots.push(head as u16 / 3);
            self.seen_used = self.seen_used.wrapping_add(1);
        }
        slots
    }

    pub(super) fn service(&mut self, index: u8) {
        let mut outputs = Vec::new();
        self.disk.service(SourceId { device: ID, index }, &mut outputs, &mut self.events);
        outputs.into_iter().for_each(|output| self.gate.hold(output));
    }

    /// What the guest's notification leads to.
    pub(super) fn notify(&mut self) {
        self.service(QUEUE as u8);
    }

    /// Lets the I/O thread finish what it has, and the guest know.
    pub(super) fn drain(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.disk.in_flight() > 0 {
            assert!(Instant::now() < end, "the I/O thread hangs");
            self.service(DONE);
            std::thread::yield_now();
        }
        self.service(DONE);
    }

    /// A checkpoint that is committed.
    pub(super) fn commit(&mut self) {
        let sealed = Sealed::new(generation(), self.gate.seal(), 1);
        let proof = sealed.acknowledged_by(&Acknowledgement(sealed.image())).expect("the same image");
        self.gate.commit(&proof).expect("sealed here");
    }

    /// Performs at most `count` of the outputs that may leave.
    pub(super) fn release(&mut self, count: usize) {
        for _ in 0..count {
            let Some(output) = self.gate.next_released() else { return };
            self.disk.release(output);
        }
    }

    /// Checkpoints until nothing is held, waiting or in flight.
    pub(super) fn settle(&mut self) {
        self.notify();
        while self.gate.is_holding() || self.disk.in_flight() > 0 {
            self.commit();
            self.release(usize::MAX);
            self.drain();
        }
    }

    /// All that is held, to be released whatever the disk has become meanwhile.
    pub(super) fn open_gate(&mut self) -> Gate<Output> {
        let mut gate = std::mem::replace(&mut self.gate, Gate::new(generation(), Epoch::FIRST, 1 << 20));
        gate.open(Consent::recorded(generation(), ConsentReason::Operator)).expect("same generation");
        gate
    }

    pub(super) fn state(&self) -> Vec<u8> {
        let mut state = Vec::new();
        self.disk.save(&mut state);
        state
    }

    pub(super) fn content(&self) -> Vec<u8> {
        let mut content = vec![0; MEMORY_BYTES];
        self.memory.read_slice(&mut content, GuestAddress(0)).expect("memory");
        content
    }

    /// Becomes what a checkpoint says.
    pub(super) fn load(&mut self, state: &[u8], content: &[u8]) {
        self.memory.write_slice(content, GuestAddress(0)).expect("memory");
        self.disk.load(1, state).expect("good state");
        self.gate = Gate::new(generation(), Epoch::FIRST, 1 << 20);
        self.next_avail = self.get(AVAIL + 2);
        self.seen_used = self.get(USED + 2);
    }

    fn bitmap(&self) -> &AtomicBitmap {
        let region: &vm_memory::MmapRegion<AtomicBitmap> = self.memory.iter().next().expect("one region");
        region.bitmap()
    }

    pub(super) fn clean_pages(&self) {
        self.bitmap().reset();
    }

    pub(super) fn dirty_pages(&self) -> usize {
        (0..MEMORY_BYTES).step_by(4096).filter(|address| self.bitmap().dirty_at(*address)).count()
    }
}
