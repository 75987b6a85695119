//! What a standby makes of the disk of a primary that died, at whatever point.

use super::super::*;
use super::rig::{IMAGE_SECTORS, Rig, directory, image, sector};
use crate::{Device, DeviceEvent};

/// A primary that stops after `released` of its outputs were released and, if `done`, completed.
fn primary(path: &super::Path, released: usize, done: bool) -> Rig {
    let mut rig = Rig::running(path);
    rig.write(0, 1, 0xa0);
    rig.read(1, 9);
    rig.write(2, 1, 0xa2);
    rig.flush(3);
    rig.read(4, 1);
    rig.write(5, 2, 0xa5);
    rig.notify();
    rig.commit();
    rig.release(released);
    if done {
        rig.drain();
    }
    // Offered and not taken.
    rig.read(6, 2);
    rig.write(7, 3, 0xa7);
    rig
}

#[test]
fn requests_are_done_again_in_order_at_every_point() {
    for (released, done) in (0..=4).flat_map(|released| [(released, false), (released, true)]) {
        let room = directory();
        let path = image(&room);
        let mut old = primary(&path, released, done);
        let (state, content) = (old.state(), old.content());
        let answered = old.used();
        // The old host finishes what it had submitted; then it is dead.
        old.drain();
        drop(old);

        let mut new = Rig::new(&path, false);
        new.load(&state, &content);
        assert_eq!(new.state(), state, "what was loaded is saved again");
        new.notify();
        new.service(1);
        assert_eq!((new.disk.in_flight(), new.disk.stats().reads), (0, 0), "nothing before start");
        new.disk.start();
        new.irq.read().expect("the interrupt is raised again");
        new.notify();
        assert!(new.gate.is_holding(), "held again");
        new.settle();
        let mut all = answered;
        all.extend(new.used());
        all.sort_unstable();
        assert_eq!(all, (0..8).collect::<Vec<_>>(), "each once, {released} released, done: {done}");
        assert_eq!([1, 2, 3].map(|number| sector(&path, number)), [0xa2, 0xa5, 0xa7]);
        assert_eq!((new.data_of(4, 512), new.data_of(6, 512)), (vec![0xa2; 512], vec![0xa5; 512]));
        assert_eq!(new.data_of(1, 512), [9; 512]);
    }
}

#[test]
fn a_disk_that_served_another_history_forgets_it_when_loaded() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    let (state, content) = (rig.state(), rig.content());
    rig.write(0, 1, 0xaa);
    rig.read(1, 2);
    rig.write(2, 3, 0xbb);
    rig.notify();
    rig.commit();
    rig.release(1);
    assert_eq!(rig.disk.in_flight(), 2);
    let mut held = rig.open_gate();

    rig.load(&state, &content);
    rig.disk.start();
    while let Some(output) = held.next_released() {
        rig.disk.release(output);
    }
    rig.drain();
    assert_eq!(rig.content(), content, "late completions do not touch memory");
    assert_eq!(sector(&path, 3), 3, "what was held is not written");
    rig.write(0, 4, 0xcc);
    rig.settle();
    assert_eq!((rig.used(), sector(&path, 4)), (vec![0], 0xcc));
}

/// The generation is another node's: what the I/O thread has not begun must never reach the disk, unless this one goes on.
#[test]
fn what_is_not_begun_when_the_disk_stops_is_not_done() {
    let room = directory();
    let path = image(&room);
    let is_cut_short = |round: u8| {
        let mut rig = Rig::running(&path);
        let (state, content) = (rig.state(), rig.content());
        for slot in 0..20 {
            rig.write(slot, u64::from(slot), round);
            rig.flush(slot + 20);
        }
        rig.notify();
        rig.commit();
        rig.release(usize::MAX);
        rig.disk.stop();
        // The one that was begun.
        rig.drain();
        let written = || (0..20).filter(|number| sector(&path, *number) == round).count();
        let before = written();
        let loaded = round.is_multiple_of(2);
        if loaded {
            rig.load(&state, &content);
        }
        rig.disk.start();
        rig.drain();
        assert_eq!((written(), rig.used().len()), if loaded { (before, 0) } else { (20, 40) });
        before < 20
    };
    // The thread may be faster than the stop now and then, but not always.
    let cut_short: Vec<u8> = (100..200).filter(|round| is_cut_short(*round)).collect();
    assert!([0, 1].iter().all(|parity| cut_short.iter().any(|round| round % 2 == *parity)), "{cut_short:?}");
}

#[test]
fn a_reset_by_the_driver_ends_its_requests() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    rig.read(0, 2);
    rig.write(1, 3, 0xaa);
    rig.notify();
    // The next one is at work at once, with other plans for that memory.
    rig.drive(0);
    let before = rig.content();
    rig.commit();
    rig.release(1);
    rig.drain();
    assert_eq!(rig.content(), before);
    rig.read(0, 3);
    rig.settle();
    assert_eq!((rig.used(), rig.data_of(0, 512)), (vec![0], vec![0xaa; 512]));
}

#[test]
fn foreign_state_is_refused() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::running(&path);
    rig.write(0, 1, 0xaa);
    rig.notify();
    let state = rig.state();
    assert!(rig.disk.load(9, &state).is_err());
    assert!(rig.disk.load(1, &[]).is_err());
    assert!(rig.disk.load(1, &[&state[..], &[0]].concat()).is_err());
    for byte in 0..state.len() {
        for bit in 0..8 {
            let mut bad = state.clone();
            bad[byte] ^= 1 << bit;
            if rig.disk.load(1, &bad).is_ok() {
                rig.disk.start();
                rig.notify();
                rig.drain();
            }
        }
    }
}

/// An image that ends before what is asked for: EIO, in effect.
fn cut(path: &super::Path) {
    std::fs::File::options().write(true).open(path).and_then(|file| file.set_len(4096)).expect("truncated");
}

#[test]
fn what_failed_waits_and_nothing_behind_it_goes_before_it() {
    let room = directory();
    let path = image(&room);
    let mut rig = Rig::with(&path, false, OnDiskError::Pause);
    rig.disk.start();
    rig.drive(1 << VIRTIO_BLK_F_FLUSH);
    cut(&path);
    rig.read(0, 100);
    rig.write(1, 3, 0xa1);
    rig.settle();
    assert_eq!((rig.used(), rig.disk.is_stuck(), rig.disk.in_flight()), (vec![], true, 0));
    assert_eq!(sector(&path, 3), 3, "not before what failed");
    let [DeviceEvent::DiskError(fault)] = &rig.events[..] else { panic!("{:?}", rig.events) };
    assert_eq!(
        (fault.operation, fault.range.clone(), fault.on_error),
        (DiskOperation::Read, 51_200..51_712, OnDiskError::Pause)
    );
    // It fails again, and is told again.
    rig.disk.retry();
    rig.drain();
    assert_eq!((rig.used(), rig.disk.is_stuck(), rig.events.len()), (vec![], true, 2));
    std::fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(IMAGE_SECTORS * 512))
        .expect("longer");
    rig.disk.retry();
    assert!(rig.disk.is_stuck(), "until it has succeeded");
    rig.settle();
    assert_eq!((rig.used(), rig.disk.is_stuck()), (vec![0, 1], false));
    assert_eq!((rig.data_of(0, 512), sector(&path, 3)), (vec![0; 512], 0xa1));
}

#[test]
fn what_failed_here_is_done_by_the_standby() {
    let room = directory();
    let path = image(&room);
    let mut old = Rig::with(&path, false, OnDiskError::Failover);
    old.disk.start();
    old.drive(1 << VIRTIO_BLK_F_FLUSH);
    cut(&path);
    old.read(0, 100);
    old.write(1, 3, 0xa1);
    old.settle();
    assert!(old.disk.is_stuck() && old.used().is_empty());
    let (state, content) = (old.state(), old.content());
    old.disk.stop();
    // Its own way to the disk is well.
    std::fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(IMAGE_SECTORS * 512))
        .expect("longer");
    let mut new = Rig::new(&path, false);
    new.load(&state, &content);
    new.disk.start();
    new.notify();
    new.settle();
    let mut used = new.used();
    used.sort_unstable();
    assert_eq!((used, sector(&path, 3)), (vec![0, 1], 0xa1));
    // And the one that failed may follow from here, and lead again.
    old.load(&state, &content);
    assert!(!old.disk.is_stuck());
    old.disk.start();
    old.notify();
    old.settle();
    assert_eq!(old.used().len(), 2);
}
