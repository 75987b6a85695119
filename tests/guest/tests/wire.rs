//! The wire and disk formats: what is encoded comes back, what is damaged does not, and the bytes stay where they are.

use kemari_guest::wire::{self, Entry, MESSAGE, Refusal, Reply, Request, SECTOR, Stat, WireError};

const PAYLOAD: [u8; 16] = *b"sixteen bytes!!!";

fn requests() -> Vec<Request> {
    vec![
        Request::Append { client: 0xc11e_0001, seq: u64::MAX - 1, payload: PAYLOAD },
        Request::Get { index: 0x0102_0304_0506_0708 },
        Request::Counter,
        Request::Stat,
    ]
}

fn replies() -> Vec<Reply> {
    let appended = |repeated| Reply::Appended { client: 7, seq: 8, index: 9, counter: 10, repeated };
    let stat = |corrupt| Reply::Stat(Stat { uptime_ms: 1, entries: 2, dirtied: 3, corrupt });
    let mut all = vec![
        appended(false),
        appended(true),
        Reply::Entry(Entry { index: 3, client: 4, seq: 5, payload: PAYLOAD }),
        Reply::Counter { counter: u64::MAX },
        stat(false),
        stat(true),
    ];
    use Refusal::{Disk, Full, Malformed, NoSuchEntry, Stale};
    all.extend([NoSuchEntry, Full, Disk, Stale, Malformed].map(Reply::Refused));
    all
}

#[test]
fn messages_come_back_with_their_tags() {
    for (tag, request) in requests().into_iter().enumerate() {
        assert_eq!(Request::decode(&request.encode(tag as u64)), Ok((tag as u64, request)));
    }
    for (tag, reply) in replies().into_iter().enumerate() {
        assert_eq!(Reply::decode(&reply.encode(tag as u64)), Ok((tag as u64, reply)));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = requests()[0].encode(42);
    for bit in 0..MESSAGE * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Request::decode(&bad).is_err(), "bit {bit}");
    }
    let good = Entry { index: 1, client: 2, seq: 3, payload: PAYLOAD }.to_sector();
    for bit in 0..SECTOR * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Entry::from_sector(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn a_request_is_not_a_reply() {
    assert_eq!(Reply::decode(&Request::Counter.encode(1)), Err(WireError::Magic));
    assert_eq!(Request::decode(&Reply::Counter { counter: 1 }.encode(1)), Err(WireError::Magic));
}

#[test]
fn unknown_kinds_are_refused_even_with_a_good_checksum() {
    let mut m = Reply::Refused(Refusal::Full).encode(1);
    m[6] = 99;
    let crc = wire::crc32c(&m[..60]);
    m[60..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Reply::decode(&m), Err(WireError::Unknown));
}

#[test]
fn bytes_are_where_the_documentation_says() {
    let m = Request::Append { client: 0x0a0b_0c0d, seq: 2, payload: PAYLOAD }.encode(3);
    assert_eq!(&m[..4], b"KLQ1");
    assert_eq!((m[4], m[8], m[24]), (1, 3, 2));
    assert_eq!(&m[16..20], &[0x0d, 0x0c, 0x0b, 0x0a]);
    assert_eq!(&m[40..56], &PAYLOAD);
    let s = Entry { index: 5, client: 6, seq: 7, payload: PAYLOAD }.to_sector();
    assert_eq!(&s[..8], b"KEMARIEN");
    assert_eq!((s[8], s[16], s[24]), (5, 6, 7));
    assert_eq!(&s[32..48], &PAYLOAD);
}

#[test]
fn checksum_is_crc32c() {
    assert_eq!(wire::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn headers_of_other_versions_are_refused() {
    let good = wire::header();
    assert_eq!(wire::check_header(&good), Ok(()));
    let mut other = good;
    other[8] += 1;
    let crc = wire::crc32c(&other[..SECTOR - 4]);
    other[SECTOR - 4..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(wire::check_header(&other), Err(WireError::Unknown));
    assert_eq!(wire::check_header(&[0; SECTOR]), Err(WireError::Magic));
}
