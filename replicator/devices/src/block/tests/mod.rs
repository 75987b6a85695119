//! The disk as a driver and the event loop see it, on real files with O_DIRECT.

mod device;
mod failover;
mod hostile;
mod overdue;
mod rig;

use std::os::unix::fs::OpenOptionsExt;

use kemari_core::Weigh;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

use super::*;
use crate::{Device, DeviceEvent};
use rig::{ID, IMAGE_SECTORS, Path, Rig, directory, image, sector};

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

#[test]
fn a_write_reaches_the_disk_and_is_answered_only_after_its_checkpoint() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    rig.write(0, 5, 0xaa);
    rig.notify();
    rig.drain();
    assert_eq!(rig.gate.held().map(|(_, output)| output.kind()).collect::<Vec<_>>(), [OutputKind::Write]);
    assert!(rig.gate.held_bytes() >= 512 && rig.gate.held().all(|(_, output)| output.weight_bytes() < 1024));
    assert_eq!((rig.used(), sector(&path, 5)), (vec![], 5), "held");
    assert!(rig.irq.read().is_err());
    // The guest may change its buffer: what was taken counts.
    rig.put(0xbbu8, 0x11000);
    rig.commit();
    rig.release(1);
    rig.drain();
    assert_eq!((rig.used(), rig.status_of(0), sector(&path, 5)), (vec![0], OK, 0xaa));
    rig.irq.read().expect("an interrupt");
    let stats = rig.disk.stats();
    assert_eq!(stats, DiskStats { writes: 1, written_bytes: 512, ..DiskStats::default() });
}

#[test]
fn a_flush_is_held_and_follows_the_writes_before_it() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    for slot in 0..20 {
        rig.write(slot, 7, slot as u8);
    }
    rig.flush(20);
    rig.notify();
    assert_eq!(rig.disk.stats().held, 21);
    assert_eq!(rig.gate.held().last().map(|(_, output)| output.kind()), Some(OutputKind::Flush));
    rig.commit();
    rig.release(usize::MAX);
    assert_eq!(rig.disk.in_flight(), 21);
    rig.drain();
    assert_eq!(rig.used(), (0..=20).collect::<Vec<_>>());
    assert_eq!(sector(&path, 7), 19);
    assert_eq!(rig.disk.stats().flushes, 1);
}

#[test]
fn a_read_waits_for_a_write_of_the_same_sectors_and_for_no_other() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    rig.write(0, 5, 0xaa);
    rig.offer(1, VIRTIO_BLK_T_IN, 4, &[0; 1024]);
    rig.read(2, 6);
    rig.notify();
    rig.drain();
    assert_eq!(rig.used(), [2], "the read of other sectors overtakes");
    assert_eq!(rig.data_of(2, 512), [6; 512]);
    assert_eq!((rig.disk.stats().waiting_reads, rig.disk.stats().held), (1, 1));
    // A later write of the same sectors is of no concern.
    rig.commit();
    rig.write(3, 5, 0xbb);
    rig.notify();
    rig.release(1);
    rig.drain();
    assert_eq!(rig.used(), [0, 1]);
    assert_eq!(rig.disk.stats().held, 1);
    assert_eq!(rig.data_of(1, 1024), [[4; 512], [0xaa; 512]].concat());
}

#[test]
fn pages_are_dirty_when_a_read_completes_and_not_before() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    rig.read(0, 9);
    rig.clean_pages();
    rig.notify();
    assert_eq!((rig.disk.in_flight(), rig.dirty_pages()), (1, 0));
    rig.drain();
    // Data, status, used ring.
    assert_eq!(rig.dirty_pages(), 3);
}

#[test]
fn what_is_no_read_write_or_flush() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    rig.offer(0, VIRTIO_BLK_T_GET_ID, 0, &[0xee; 20]);
    rig.offer(1, 11, 0, &[0xee; 16]);
    rig.read(2, IMAGE_SECTORS);
    rig.read(3, u64::MAX);
    rig.offer(4, VIRTIO_BLK_T_OUT, IMAGE_SECTORS - 1, &[1; 1024]);
    rig.offer(5, VIRTIO_BLK_T_IN, 0, &[0xee; 100]);
    rig.offer(6, VIRTIO_BLK_T_IN, 0, &[]);
    rig.read(7, IMAGE_SECTORS - 1);
    rig.settle();
    let answers: Vec<_> = (0..8).map(|slot| rig.status_of(slot)).collect();
    assert_eq!(answers, [OK, UNSUPP, IOERR, IOERR, IOERR, IOERR, IOERR, OK]);
    assert_eq!(rig.data_of(0, 20), b"serial-7\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(rig.data_of(5, 100), [0xee; 100]);
    assert_eq!(rig.used().len(), 8);
    assert_eq!(rig.disk.stats().errors, 5);
    assert_eq!(rig.events, [], "the guest's mistakes are not the disk's");
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::new(&path, true);
    rig.disk.start();
    rig.drive(1 << VIRTIO_BLK_F_RO | 1 << VIRTIO_BLK_F_FLUSH);
    rig.write(0, 5, 0xaa);
    rig.read(1, 5);
    rig.settle();
    assert_eq!((rig.status_of(0), rig.status_of(1)), (IOERR, OK));
    assert_eq!(sector(&path, 5), 5);
    let mut config = [0; 24];
    rig.disk.bus().read(0x100, &mut config);
    assert_eq!(config[..8], IMAGE_SECTORS.to_le_bytes());
    assert_eq!(config[12..16], 254u32.to_le_bytes());
    assert_eq!(config[20..], rig.disk.block_bytes().to_le_bytes());
}

#[test]
fn requests_may_be_cut_up_as_the_driver_likes() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    // Write: half of the header | the rest and some data | data; read: data in two pieces, the status behind the second.
    rig.put(VIRTIO_BLK_T_OUT, 0x8000);
    rig.put(3u64, 0x8008);
    rig.memory.write_slice(&[0xcc; 512], GuestAddress(0x8010)).expect("memory");
    rig.descriptor(0, (0x8000, 8), 1, 1);
    rig.descriptor(1, (0x8008, 108), 1, 2);
    rig.descriptor(2, (0x8074, 412), 1, 3);
    rig.descriptor(3, (0x9000, 1), 2, 0);
    rig.offer_head(0);
    rig.put(VIRTIO_BLK_T_IN, 0xa000);
    rig.put(3u64, 0xa008);
    rig.descriptor(6, (0xa000, 16), 1, 7);
    rig.descriptor(7, (0xb000, 500), 3, 8);
    rig.descriptor(8, (0xc000, 13), 2, 0);
    rig.offer_head(6);
    rig.settle();
    assert_eq!(rig.used(), [0, 2]);
    assert_eq!(sector(&path, 3), 0xcc);
    assert_eq!((rig.get::<u8>(0xb000), rig.get::<u8>(0xc00b), rig.get::<u8>(0xc00c)), (0xcc, 0xcc, OK));
    assert_eq!(rig.get::<u8>(0xb000 + 500), 0);
}

#[test]
fn an_error_of_the_host_is_told_to_the_guest_and_reported() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    std::fs::File::options().write(true).open(&path).and_then(|file| file.set_len(4096)).expect("truncated");
    rig.read(0, 100);
    rig.settle();
    assert_eq!((rig.used(), rig.status_of(0)), (vec![0], IOERR));
    let [DeviceEvent::DiskError(fault)] = &rig.events[..] else { panic!("{:?}", rig.events) };
    let text = fault.to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains("read of 512 bytes at 51200"), "{text}");
}

#[test]
fn a_full_gate_leaves_requests_with_the_guest() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    rig.disk.set_backpressure(true);
    rig.write(0, 1, 1);
    rig.notify();
    assert!(!rig.gate.is_holding());
    while rig.disk.notifiers()[0].read().is_ok() {}
    rig.disk.set_backpressure(false);
    assert!(rig.disk.notifiers()[0].read().is_ok(), "the source is ready again");
    rig.settle();
    assert_eq!(rig.used(), [0]);
}

#[test]
fn what_is_released_while_stopped_waits_for_the_start() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    rig.write(0, 1, 0xaa);
    rig.read(1, 2);
    rig.notify();
    rig.disk.stop();
    rig.commit();
    rig.release(1);
    rig.drain();
    assert_eq!((rig.used(), sector(&path, 1), rig.disk.in_flight()), (vec![], 1, 0));
    rig.disk.start();
    rig.drain();
    let mut used = rig.used();
    used.sort_unstable();
    assert_eq!((used, sector(&path, 1)), (vec![0, 1], 0xaa));
}

#[test]
fn the_image_is_open_for_direct_io_only() {
    let room = directory();
    let path = image(&room);
    let _rig = Rig::running(&path);
    let ours = |entry: &std::fs::DirEntry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path);
    let open: Vec<_> = std::fs::read_dir("/proc/self/fd").expect("proc").flatten().filter(ours).collect();
    assert!(!open.is_empty());
    for entry in open {
        let info = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).expect("proc");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
        let flags = i32::from_str_radix(flags.trim(), 8).expect("octal");
        assert_ne!(flags & libc::O_DIRECT, 0, "{info}");
    }
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let room = directory();
    let open = |path: &Path, serial: &str| {
        let options = DiskOptions {
            path: path.to_owned(),
            serial: serial.to_owned(),
            read_only: false,
            on_error: OnDiskError::Report,
            timeout_s: None,
        };
        let memory = Memory::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
        Disk::new(ID, memory, EventFd::new(0).expect("eventfd"), &options).map(|_| ()).expect_err("no disk")
    };
    let path = image(&room);
    assert!(matches!(open(room.path(), "s"), DiskError::NotADisk { .. }));
    assert!(matches!(open(Path::new("/dev/null"), "s"), DiskError::NotADisk { .. }));
    assert!(matches!(open(&room.path().join("none"), "s"), DiskError::Open { .. }));
    assert!(matches!(open(&path, "123456789012345678901"), DiskError::Serial { .. }));
    assert!(matches!(open(&path, "new\nline"), DiskError::Serial { .. }));
    let file = std::fs::File::options().write(true).custom_flags(libc::O_CLOEXEC).open(&path).expect("image");
    file.set_len(1000).expect("truncated");
    let error = open(&path, "s");
    assert!(matches!(error, DiskError::Size { bytes: 1000, .. }) && error.to_string().contains("truncate"), "{error}");
}

#[test]
fn an_image_is_one_by_whatever_name() {
    let room = directory();
    let (path, other, link) = (image(&room), room.path().join("other"), room.path().join("link"));
    std::fs::copy(&path, &other).expect("copied");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    let id = |path: &Path| {
        let options = DiskOptions {
            path: path.to_owned(),
            serial: "s".to_owned(),
            read_only: true,
            on_error: OnDiskError::Report,
            timeout_s: None,
        };
        Disk::check(&options).expect("a disk")
    };
    let mut images = Images::default();
    images.add(id(&path), &path).expect("the first");
    images.add(id(&other), &other).expect("another");
    let error = images.add(id(&link), &link).expect_err("the first again").to_string();
    assert!([&link, &path].iter().all(|path| error.contains(&path.display().to_string())), "{error}");
}

#[test]
fn a_driver_that_does_not_flush_gets_durable_writes() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    for (features, expected) in [(0, true), (1 << VIRTIO_BLK_F_FLUSH, false)] {
        rig.drive(features);
        rig.write(0, 1, 1);
        rig.notify();
        let Some(output) = rig.open_gate().next_released() else { panic!("a write") };
        let Payload::Block(BlockOutput(Job { work: Work::Write { durable, .. }, .. })) = output.into_inner().payload
        else {
            panic!("a write");
        };
        assert_eq!(durable, expected);
    }
}
