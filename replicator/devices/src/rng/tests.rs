use super::*;
use crate::virtio::driver::{BUFFERS, Driver, MEMORY_BYTES, WRITABLE, memory};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

struct Rig {
    rng: Rng,
    driver: Driver,
    irq: EventFd,
}

fn rig() -> Rig {
    let (memory, irq) = (memory(), EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
    let rng = Rng::new(DeviceId(5), memory.clone(), irq.try_clone().expect("its twin")).expect("a device");
    let driver = Driver::new(memory, rng.bus(), QUEUE_SIZES.len());
    Rig { rng, driver, irq }
}

impl Rig {
    fn service(&mut self) {
        let source = self.rng.sources()[0].id;
        self.rng.service(source, &mut Vec::new(), &mut Vec::new());
    }

    fn state(&self) -> Vec<u8> {
        let mut state = Vec::new();
        self.rng.save(&mut state);
        state
    }
}

#[test]
fn every_request_gets_bytes_of_its_own() {
    let mut rig = rig();
    rig.rng.start();
    rig.driver.start(0);
    rig.driver.offer(QUEUE, 0, &[(BUFFERS, 64, WRITABLE)]);
    rig.driver.offer(QUEUE, 1, &[(BUFFERS + 64, 32, WRITABLE), (BUFFERS + 96, 32, WRITABLE)]);
    rig.service();
    assert_eq!(rig.driver.used(QUEUE), [(0, 64), (1, 64)]);
    let (one, other) = (rig.driver.bytes(BUFFERS, 64), rig.driver.bytes(BUFFERS + 64, 64));
    assert!(one != [0; 64] && other != [0; 64] && one != other);
    assert_eq!(rig.irq.read().ok(), Some(1), "one interrupt for both");
}

#[test]
fn what_is_asked_of_a_stopped_device_is_answered_when_it_starts() {
    let mut before = rig();
    before.driver.start(0);
    before.driver.offer(QUEUE, 0, &[(BUFFERS, 5000, WRITABLE)]);
    before.service();
    assert!(before.driver.used(QUEUE).is_empty());
    let mut after = rig();
    let content = before.driver.bytes(0, MEMORY_BYTES);
    after.driver.memory.write_slice(&content, GuestAddress(0)).expect("memory");
    after.rng.load(KIND.state_version, &before.state()).expect("good state");
    assert_eq!(after.state(), before.state());
    after.driver.resume();
    after.rng.start();
    after.service();
    assert_eq!(after.driver.used(QUEUE), [(0, ANSWER_BYTES_MAX as u32)], "some of what was asked for");
}

#[test]
fn what_makes_no_sense_does_no_harm() {
    let mut rig = rig();
    rig.rng.start();
    rig.driver.start(0);
    rig.driver.offer(QUEUE, 0, &[(BUFFERS, 64, 0)]);
    rig.service();
    assert_eq!(rig.driver.used(QUEUE), [(0, 0)], "nowhere to put it");
    assert!(rig.rng.load(KIND.state_version, &[1, 2, 3]).is_err());
}
