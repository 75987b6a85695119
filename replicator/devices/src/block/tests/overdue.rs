//! Requests that the host does not finish.

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use super::super::*;
use super::rig::{Path, Rig, directory, image, sector};
use super::{IOERR, OK};
use crate::{Device, DeviceEvent};

/// A disk whose host does one request for each that it is told to, and a driver at work.
fn hanging(path: &Path, on_error: OnDiskError) -> (Rig, Sender<()>) {
    let mut rig = Rig::with(path, false, on_error);
    let Image { file, .. } = Image::open(path, false).expect("an image");
    let (go, may_go) = channel();
    let perform = move |work: &mut Work| {
        may_go.recv().expect("the test says when");
        work.perform(&file)
    };
    rig.disk.worker = Worker::start("hanging".to_owned(), on_error != OnDiskError::Report, perform).expect("a thread");
    rig.disk.start();
    rig.drive(1 << VIRTIO_BLK_F_FLUSH);
    (rig, go)
}

/// Offers what was put into the ring, and lets all of it out.
fn release(rig: &mut Rig) {
    rig.notify();
    rig.commit();
    rig.release(usize::MAX);
}

/// Time goes by until so many faults were told. Those are without the first `before`.
fn faults(rig: &mut Rig, before: usize, count: usize) -> Vec<DiskFault> {
    let end = Instant::now() + Duration::from_secs(20);
    while rig.events.len() < before + count {
        assert!(Instant::now() < end, "{:?}", rig.events);
        rig.service(TIMER);
        std::thread::sleep(Duration::from_millis(20));
    }
    let fault = |event: &DeviceEvent| match event {
        DeviceEvent::DiskError(fault) => fault.clone(),
        other => panic!("{other:?}"),
    };
    rig.events[before..].iter().map(fault).collect()
}

#[test]
fn the_guest_is_told_and_what_may_still_be_done_is_done_before_all_that_follows() {
    let room = directory();
    let path = image(&room);
    let (mut rig, go) = hanging(&path, OnDiskError::Report);
    rig.write(0, 1, 0xa0);
    release(&mut rig);
    rig.read(1, 5);
    rig.write(2, 2, 0xa2);
    release(&mut rig);
    let told = faults(&mut rig, 0, 3);
    assert!(told.iter().all(|fault| fault.failure == DiskFailure::Overdue { timeout_s: 1 }), "{told:?}");
    assert!(told[0].to_string().contains("write of 512 bytes at 512 is not done after 1 s"), "{}", told[0]);
    assert_eq!((rig.used(), [0, 1, 2].map(|slot| rig.status_of(slot))), (vec![0, 1, 2], [IOERR; 3]));
    assert_eq!((rig.disk.in_flight(), rig.disk.stats().errors), (1, 3), "a handover waits for what was begun");

    rig.write(3, 1, 0xa3);
    rig.read(4, 1);
    release(&mut rig);
    (0..3).for_each(|_| go.send(()).expect("it waits"));
    rig.drain();
    assert_eq!((rig.used(), [3, 4].map(|slot| rig.status_of(slot))), (vec![3, 4], [OK; 2]));
    assert_eq!((rig.data_of(4, 512), sector(&path, 1)), (vec![0xa3; 512], 0xa3), "what came late came before");
    assert_eq!(sector(&path, 2), 2, "what was not begun is never done");
}

#[test]
fn what_comes_while_the_host_hangs_fails_in_its_turn() {
    let room = directory();
    let path = image(&room);
    let (mut rig, go) = hanging(&path, OnDiskError::Report);
    rig.read(0, 1);
    rig.notify();
    assert_eq!(faults(&mut rig, 0, 1)[0].range, 512..1024);
    rig.read(1, 2);
    rig.notify();
    assert_eq!(faults(&mut rig, 1, 1)[0].range, 1024..1536);
    assert_eq!((rig.used(), rig.disk.in_flight(), rig.disk.pending.len()), (vec![0, 1], 1, 0));
    go.send(()).expect("it waits");
    rig.drain();
    assert_eq!(rig.data_of(0, 512), [0xee; 512], "the guest has other plans for that memory");
}

#[test]
fn a_guest_that_must_not_see_it_waits() {
    for on_error in [OnDiskError::Pause, OnDiskError::Failover] {
        let room = directory();
        let path = image(&room);
        let (mut rig, go) = hanging(&path, on_error);
        rig.write(0, 1, 0xa0);
        rig.write(1, 2, 0xa1);
        release(&mut rig);
        // Told again and again: a standby may be there by then.
        let told = faults(&mut rig, 0, 2);
        assert!(told.iter().all(|fault| fault.range == (512..1024) && fault.on_error == on_error), "{told:?}");
        assert_eq!((rig.used(), rig.disk.is_stuck(), rig.disk.in_flight()), (vec![], true, 2));
        rig.disk.retry();
        assert_eq!(rig.disk.in_flight(), 2, "it is not done twice");
        (0..2).for_each(|_| go.send(()).expect("it waits"));
        rig.drain();
        assert_eq!((rig.used(), rig.disk.is_stuck()), (vec![0, 1], false));
        assert_eq!([1, 2].map(|number| sector(&path, number)), [0xa0, 0xa1]);
    }
}
