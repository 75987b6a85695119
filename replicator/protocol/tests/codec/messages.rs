//! Messages of every kind, and bodies that look like some.

use std::ops::RangeInclusive;

use kemari_core::{Epoch, Generation, Image, PAGE_SIZE, PageRun};
use kemari_protocol::limits::CHUNK_PAGES;
use kemari_protocol::{Chunk, Identity, Manifest, Message, Offer, Refuse, Select, Versions};
use proptest::prelude::*;

/// Every kind there is, by its number on the wire.
pub(crate) const KINDS: RangeInclusive<u8> = 1..=19;

fn generation() -> impl Strategy<Value = Generation> {
    (any::<u64>(), any::<u64>()).prop_map(|(number, id)| Generation { number, id })
}

fn image() -> impl Strategy<Value = Image> {
    (generation(), 1..=u64::MAX, any::<u32>()).prop_map(|(generation, epoch, checksum)| Image {
        generation,
        epoch: Epoch::new(epoch).expect("not 0"),
        checksum,
    })
}

fn reason() -> impl Strategy<Value = String> {
    prop_oneof![".{0,40}", Just("x".repeat(1024))]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9.-]{1,64}"
}

fn identity() -> impl Strategy<Value = Identity> {
    prop::collection::btree_map("[a-z0-9.]{1,20}", "[ -~]{0,40}", 0..20)
        .prop_map(|pairs| Identity::new(pairs.into_iter().collect()).expect("within its limits"))
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let run = (0..=u64::MAX - CHUNK_PAGES, 1..4u64).prop_map(|(first, count)| PageRun { first, count });
    let runs = prop_oneof![
        8 => prop::collection::vec(run, 1..4),
        1 => Just(vec![PageRun { first: 7, count: CHUNK_PAGES }]),
        1 => Just((0..CHUNK_PAGES).map(|page| PageRun { first: page * 2, count: 1 }).collect()),
    ];
    (runs, any::<u8>()).prop_map(|(runs, seed)| {
        let bytes = runs.iter().map(|run| run.count).sum::<u64>() as usize * PAGE_SIZE;
        let data = (0..bytes).map(|at| (at / 7) as u8 ^ seed).collect();
        Chunk::new(runs, data).expect("as long as it says")
    })
}

fn offer() -> impl Strategy<Value = Offer> {
    let versions = (any::<u16>(), any::<u16>()).prop_map(|(oldest, newest)| Versions { oldest, newest });
    (versions, name(), identity(), any::<u64>(), generation(), any::<bool>(), any::<u32>()).prop_map(
        |(versions, node, identity, pages, generation, unprotected, heartbeat_ms)| Offer {
            versions,
            node,
            identity,
            pages,
            generation,
            unprotected,
            heartbeat_ms,
        },
    )
}

fn select() -> impl Strategy<Value = Select> {
    (any::<u16>(), name(), prop::option::of(image()), any::<bool>(), any::<u32>()).prop_map(
        |(version, node, image, rehearsed, heartbeat_ms)| Select { version, node, image, rehearsed, heartbeat_ms },
    )
}

fn manifest() -> impl Strategy<Value = Manifest> {
    (image(), prop::option::of(image()), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
        |(image, onto, pages, state_bytes, unprotected)| Manifest { image, onto, pages, state_bytes, unprotected },
    )
}

/// A message of any kind.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        offer().prop_map(Message::Offer),
        select().prop_map(Message::Select),
        (reason(), prop::option::of(generation()))
            .prop_map(|(reason, generation)| Message::Refuse(Refuse { reason, generation })),
        Just(Message::SyncBegin),
        chunk().prop_map(Message::SyncPages),
        manifest().prop_map(Message::Manifest),
        chunk().prop_map(Message::Pages),
        prop::collection::vec(any::<u8>(), 1..3000).prop_map(Message::State),
        image().prop_map(Message::Ack),
        prop_oneof![Just(Ok(())), reason().prop_map(Err)].prop_map(Message::Rehearsed),
        Just(Message::Heartbeat),
        any::<u64>().prop_map(|nonce| Message::Probe { nonce }),
        any::<u64>().prop_map(|nonce| Message::ProbeReply { nonce }),
        (image(), any::<bool>()).prop_map(|(image, promote)| Message::Yield { image, promote }),
        generation().prop_map(|generation| Message::Promoted { generation }),
        reason().prop_map(|reason| Message::PromoteRefused { reason }),
        reason().prop_map(|reason| Message::Bye { reason }),
        any::<u64>().prop_map(|page| Message::PageLost { page }),
        chunk().prop_map(Message::PageBack),
    ]
}

/// Bodies that some decoder may take for its own, mostly of the kind that they are made for: short ones, long runs of one byte
/// (lengths, empty strings), texts, tables of pages, and what was good once.
pub(crate) fn lies() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let lengths = prop::sample::select(vec![1usize, 100, 4096, 4097, 65_536, 256 << 10]);
    let text = (0..4100usize, any::<bool>()).prop_map(|(length, fits)| {
        let mut body = varint(length as u64);
        body.resize(body.len() + length + usize::from(!fits), b'x');
        body
    });
    // A postcard sequence: how many, as a varint, and then that many of nothing, or fewer.
    let sequence = (any::<u64>(), lengths.clone(), any::<u8>()).prop_map(|(count, length, fill)| {
        let mut body = varint(count);
        body.resize(length + body.len(), fill);
        body
    });
    let any_kind = || prop_oneof![4 => KINDS, 1 => any::<u8>()];
    prop_oneof![
        4 => (any_kind(), prop::collection::vec(any::<u8>(), 0..200)),
        2 => (any_kind(), (any::<u8>(), lengths).prop_map(|(byte, length)| vec![byte; length])),
        2 => (any_kind(), sequence),
        4 => (prop::sample::select(vec![5, 7]), table()),
        2 => (prop::sample::select(vec![16, 17]), text),
        2 => (Just(1), offer_of_empty_keys()),
        2 => (Just(1), offer_of_many_keys()),
        4 => good_and_spoilt(),
    ]
}

/// Runs of pages, of which some are empty or past the end of everything, with content that fits or nearly does.
fn table() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![any::<u64>(), u64::MAX - 40..=u64::MAX];
    let runs = prop::collection::vec((first, 0..30u32), 0..5);
    let count = prop_oneof![3 => Just(None), 1 => any::<u32>().prop_map(Some), 1 => (0..65u32).prop_map(Some)];
    (runs, count, prop_oneof![3 => Just(0), 1 => 1..5000usize]).prop_map(|(runs, count, more)| {
        let mut body = count.unwrap_or(runs.len() as u32).to_le_bytes().to_vec();
        for (first, count) in &runs {
            body.extend(first.to_le_bytes());
            body.extend(count.to_le_bytes());
        }
        let pages: usize = runs.iter().map(|(_, count)| *count as usize).sum();
        body.resize(body.len() + pages * PAGE_SIZE + more, 0);
        body
    })
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The most memory for the least bytes: versions, a name, and as many pairs of empty strings as it says.
fn offer_of_empty_keys() -> impl Strategy<Value = Vec<u8>> {
    (any::<u64>(), 0..(256usize << 10) - 20).prop_map(|(count, room)| {
        let mut body = vec![1, 1, 1, b'a'];
        body.extend(varint(if count % 2 == 0 { room as u64 / 2 } else { count }));
        body.resize(body.len() + room, 0);
        body
    })
}

/// A whole offer, whose identity may be within its limits: keys too many, too long, or the same.
fn offer_of_many_keys() -> impl Strategy<Value = Vec<u8>> {
    (0..400usize, 1..800usize, 0..300usize).prop_map(|(keys, different, length)| {
        let key = |index: usize| format!("k{}", index % different);
        let pairs: Vec<(String, String)> = (0..keys).map(|index| (key(index), "v".repeat(length))).collect();
        let offer = ((1u16, 1u16), "alpha", pairs, 8u64, (2u64, 22u64), false, 100u32, 500u32);
        postcard::to_stdvec(&offer).expect("plain data")
    })
}

/// The body of a good message, with a few bytes changed.
fn good_and_spoilt() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (message(), changes).prop_map(|(message, changes)| {
        let mut header = super::bytes_of(message);
        let mut body = header.split_off(super::HEADER_BYTES);
        for (index, byte) in changes {
            if !body.is_empty() {
                let at = index.index(body.len());
                body[at] = byte;
            }
        }
        (header[6], body)
    })
}

/// What messages say, apart from how a chunk keeps its bytes.
pub(crate) fn contents(messages: &[Message]) -> Vec<String> {
    let content = |message: &Message| match message {
        Message::SyncPages(chunk) => format!("sync {:?} {}", chunk.runs(), crc32c::crc32c(chunk.data())),
        Message::Pages(chunk) => format!("pages {:?} {}", chunk.runs(), crc32c::crc32c(chunk.data())),
        Message::PageBack(chunk) => format!("page {:?} {}", chunk.runs(), crc32c::crc32c(chunk.data())),
        other => format!("{other:?}"),
    };
    messages.iter().map(content).collect()
}

/// Nothing that comes out of the decoder is over its limit.
pub(crate) fn check_limits(message: &Message) {
    match message {
        Message::SyncPages(chunk) | Message::Pages(chunk) | Message::PageBack(chunk) => {
            assert!((1..=CHUNK_PAGES).contains(&chunk.pages()));
            assert!(chunk.runs().iter().all(|run| run.count > 0 && run.end().is_some()));
            assert_eq!(chunk.runs().iter().map(|run| run.count).sum::<u64>(), chunk.pages());
            assert_eq!(chunk.data().len() as u64, chunk.pages() * PAGE_SIZE as u64);
            assert_eq!(chunk.contents().count(), chunk.runs().len());
        }
        Message::State(bytes) => assert!((1..=256 << 10).contains(&bytes.len())),
        Message::Offer(offer) => {
            assert!(offer.node.len() <= 64);
            let identity = postcard::to_stdvec(&offer.identity).expect("plain data");
            assert!(
                Identity::new(postcard::from_bytes(&identity).expect("pairs")).is_ok(),
                "an identity over its limits"
            );
        }
        Message::Select(select) => assert!(select.node.len() <= 64),
        Message::Refuse(Refuse { reason, .. })
        | Message::Rehearsed(Err(reason))
        | Message::PromoteRefused { reason }
        | Message::Bye { reason } => assert!(reason.len() <= 1024),
        _ => {}
    }
}
