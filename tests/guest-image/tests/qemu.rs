//! The guest under plain QEMU, in software emulation: what it does there it does under Kemari.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod machine;

use kemari_guest::wire::{self, Entry, FIRST_ENTRY_SECTOR, Refusal, Reply, Request, SECTOR};
use machine::{Client, Machine, Site};
use std::time::{Duration, Instant};

const CLIENT: u32 = 7;

fn payload(seq: u64) -> [u8; 16] {
    let mut payload = *b"entry           ";
    payload[8..].copy_from_slice(&seq.to_le_bytes());
    payload
}

fn append(seq: u64) -> Request {
    Request::Append { client: CLIENT, seq, payload: payload(seq) }
}

/// Appends `seqs` in one go and checks that they get the places from `first` on, in order.
fn append_all(client: &mut Client, seqs: std::ops::Range<u64>, first: u64) {
    let requests: Vec<_> = seqs.clone().map(append).collect();
    let mut last_counter = 0;
    for (at, (reply, seq)) in client.ask_all(&requests).into_iter().zip(seqs).enumerate() {
        let Reply::Appended { client: CLIENT, seq: answered, index, counter, repeated: false } = reply else {
            panic!("{reply:?}")
        };
        assert_eq!((answered, index), (seq, first + at as u64));
        assert!(counter > last_counter, "the counter went from {last_counter} to {counter}");
        last_counter = counter;
    }
}

fn assert_on_disk(site: &Site, entries: u64) {
    let disk = std::fs::read(&site.disk).unwrap();
    let sector = |n: u64| disk[n as usize * SECTOR..][..SECTOR].try_into().unwrap();
    wire::check_header(sector(0)).unwrap();
    for index in 0..entries {
        let expected = Entry { index, client: CLIENT, seq: index + 1, payload: payload(index + 1) };
        assert_eq!(Entry::from_sector(sector(FIRST_ENTRY_SECTOR + index)), Ok(expected));
    }
    assert_eq!(sector(FIRST_ENTRY_SECTOR + entries), &[0; SECTOR], "more than {entries} entries");
}

#[test]
fn ledger_survives_a_restart() {
    let Some(site) = Site::new() else { return };
    let mut machine = Machine::start(&site, "flush=1");
    assert!(machine.booted.contains("ledger=0 flush=1"), "{}", machine.booted);
    let mut client = machine.connect();
    append_all(&mut client, 1..101, 0);
    assert_on_disk(&site, 100);
    let entry = Entry { index: 99, client: CLIENT, seq: 100, payload: payload(100) };
    assert_eq!(client.ask(Request::Get { index: 99 }), Reply::Entry(entry));
    assert_eq!(client.ask(Request::Get { index: 100 }), Reply::Refused(Refusal::NoSuchEntry));
    let said = machine.press_ctrl_alt_del();
    assert!(said.contains("reset on request"), "{said}");

    let machine = Machine::start(&site, "flush=0");
    assert!(machine.booted.contains("ledger=100 flush=0"), "{}", machine.booted);
    let mut client = machine.connect();
    for seq in [100, 1, 50] {
        let reply = client.ask(append(seq));
        assert!(matches!(reply, Reply::Appended { index, repeated: true, .. } if index == seq - 1), "{reply:?}");
    }
    append_all(&mut client, 101..121, 100);
    assert_on_disk(&site, 120);
}

#[test]
fn leftovers_behind_a_lost_write_do_not_come_back() {
    let Some(site) = Site::new() else { return };
    let entry = |index: u64| Entry { index, client: CLIENT, seq: index + 1, payload: payload(index + 1) }.to_sector();
    // Entries 0 and 2 reached the disk before a crash, entry 1 did not.
    site.write_sectors(&[wire::header(), entry(0), [0; SECTOR], entry(2)]);
    let machine = Machine::start(&site, "");
    assert!(machine.booted.contains("ledger=1 "), "{}", machine.booted);
    append_all(&mut machine.connect(), 2..3, 1);
    drop(machine);
    assert_on_disk(&site, 2);
    let machine = Machine::start(&site, "");
    assert!(machine.booted.contains("ledger=2 "), "{}", machine.booted);
}

#[test]
fn a_foreign_disk_is_refused() {
    let Some(site) = Site::new() else { return };
    site.write_sectors(&[[0x55; SECTOR]]);
    let machine = Machine::start(&site, "");
    assert!(machine.booted.contains("something else than a ledger"), "{}", machine.booted);
    drop(machine);
    assert_eq!(std::fs::read(&site.disk).unwrap()[..SECTOR], [0x55; SECTOR]);
}

#[test]
fn connections_are_served_side_by_side() {
    let Some(site) = Site::new() else { return };
    let machine = Machine::start(&site, "");
    let mut clients: Vec<_> = (0..8).map(|_| machine.connect()).collect();
    let requests = |client: u32| -> Vec<_> {
        (1..=50).map(|seq| Request::Append { client, seq, payload: [client as u8; 16] }).collect()
    };
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&requests(number as u32));
    }
    let mut places = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        for (reply, request) in client.receive(50).into_iter().zip(requests(number as u32)) {
            let Request::Append { client: asked, seq: asked_seq, .. } = request else { unreachable!() };
            let Reply::Appended { client, seq, index, repeated: false, .. } = reply else { panic!("{reply:?}") };
            assert_eq!((client, seq), (asked, asked_seq));
            places.push(index);
        }
    }
    places.sort_unstable();
    assert!(places.into_iter().eq(0..400), "a place was given twice or not at all");

    // No more are served, until one of them has gone.
    assert!(!machine.connect().is_served());
    drop(clients.pop());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !machine.connect().is_served() {
        assert!(Instant::now() < deadline, "no slot became free");
    }
}

#[test]
fn nonsense_is_answered_and_costs_the_connection_only() {
    let Some(site) = Site::new() else { return };
    let machine = Machine::start(&site, "");
    let mut good = machine.connect();
    let mut bad = machine.connect();
    bad.send_bytes(&[Request::Counter.encode(0), [0x5a; wire::MESSAGE]].concat());
    assert!(matches!(bad.receive(2)[..], [Reply::Counter { .. }, Reply::Refused(Refusal::Malformed)]));
    assert!(bad.is_closed());
    assert!(matches!(good.ask(Request::Counter), Reply::Counter { counter: 2 }));
    assert!(matches!(good.ask(append(5)), Reply::Appended { .. }));
    assert_eq!(good.ask(append(4)), Reply::Refused(Refusal::Stale));
    assert_eq!(machine.ask_udp(), Reply::Counter { counter: 4 });
}

#[test]
fn workload_keeps_its_rate_and_finds_no_corruption() {
    let Some(site) = Site::new() else { return };
    let machine = Machine::start(&site, "dirty_pages=50 dirty_rate=2000");
    let mut client = machine.connect();
    let mut stat = || match client.ask(Request::Stat) {
        Reply::Stat(stat) => stat,
        other => panic!("{other:?}"),
    };
    let before = stat();
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let after = stat();
    let (elapsed, uptime) = (began.elapsed().as_millis() as u64, after.uptime_ms - before.uptime_ms);
    let dirtied = after.dirtied - before.dirtied;
    assert!(!after.corrupt);
    assert!(uptime.abs_diff(elapsed) < elapsed / 10, "{elapsed} ms here were {uptime} ms there");
    // A busy host may make it late; it never writes more than asked.
    assert!((uptime..=2 * uptime + 100).contains(&dirtied), "{dirtied} pages in {uptime} ms");
}
