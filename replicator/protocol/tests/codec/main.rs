//! The wire codec against bytes that nobody sane sends: it never panics, never takes much memory for little, and never accepts
//! a frame whose checksums are wrong.
//!
//! More cases than usual: `PROPTEST_CASES=1000000 cargo test --release -p kemari-protocol --test codec`.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

mod memory;
mod messages;

use kemari_protocol::{DecodeError, Decoder, Frame, Message};
use proptest::prelude::*;

use memory::peak_while;
use messages::{KINDS, message};

const HEADER_BYTES: usize = 20;
/// Most memory that a frame may take while it is decoded, in bytes: the body, what is made of it, and room for that to grow.
/// The worst is an offer of 256 KiB that is nothing but empty keys.
const MEMORY_LIMIT: usize = 16 << 20;
/// Most memory that a header alone may take.
const HEADER_LIMIT: usize = 512 << 10;

fn config(usual: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn bytes_of(message: Message) -> Vec<u8> {
    let frame = Frame::encode(message);
    let (head, body) = frame.parts();
    let bytes = [head, body].concat();
    assert_eq!(bytes.len(), frame.len());
    bytes
}

/// A frame with a good header: these are all the decoder has to go by.
fn framed(kind: u8, length: u32, checksum: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [b"KMRI\x01\0".as_slice(), &[kind, 0], &length.to_le_bytes(), &checksum.to_le_bytes()].concat();
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Feeds all of it, cut at these places; gives what came out before the first error.
fn decode(bytes: &[u8], cuts: &[prop::sample::Index]) -> (Vec<Message>, Option<DecodeError>) {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    let (mut decoder, mut messages, mut start) = (Decoder::new(), Vec::new(), 0);
    for end in ends {
        let mut input = &bytes[start..end];
        start = end;
        loop {
            match decoder.feed(&mut input) {
                Ok(Some(message)) => {
                    messages.push(message);
                    assert!(messages.len() * HEADER_BYTES <= bytes.len(), "messages out of nothing");
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(matches!(decoder.feed(&mut input), Err(DecodeError::GivenUp)));
                    return (messages, Some(error));
                }
            }
        }
        assert!(input.is_empty(), "bytes were left without a reason");
    }
    (messages, None)
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_split(
        sent in prop::collection::vec(message(), 1..4),
        cuts in cuts(),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(|message| bytes_of(message.clone())).collect();
        let (came, error) = decode(&bytes, &cuts);
        prop_assert!(error.is_none(), "{error:?}");
        // A chunk that came in a frame is kept in another way than one that was gathered; on the wire they are equal.
        let again: Vec<u8> = came.iter().flat_map(|message| bytes_of(message.clone())).collect();
        prop_assert_eq!(messages::contents(&came), messages::contents(&sent));
        prop_assert!(again == bytes, "what came out is not what went in");
    }

    /// crc32c finds any three wrong bits in a frame of this size.
    #[test]
    fn a_frame_with_wrong_bits_is_never_accepted(
        message in message(),
        flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        cuts in cuts(),
    ) {
        let good = bytes_of(message);
        let mut bytes = good.clone();
        flips.iter().map(|flip| flip.index(good.len() * 8)).for_each(|bit| bytes[bit / 8] ^= 1 << (bit % 8));
        prop_assume!(bytes != good);
        let (came, error) = decode(&bytes, &cuts);
        prop_assert!(came.is_empty(), "accepted: {came:?}");
        prop_assert!(error.is_some(), "the damage was not seen in a whole frame");
    }

    #[test]
    fn a_frame_with_another_checksum_is_never_accepted(
        kind in KINDS,
        body in prop::collection::vec(any::<u8>(), 0..300),
        checksum in any::<u32>(),
    ) {
        prop_assume!(checksum != crc32c::crc32c(&body));
        let (came, error) = decode(&framed(kind, body.len() as u32, checksum, &body), &[]);
        prop_assert!(came.is_empty());
        prop_assert!(matches!(error, Some(DecodeError::BodyChecksum(found)) if found == kind), "{error:?}");
    }

    #[test]
    fn a_cut_frame_is_waited_for(message in message(), end in any::<prop::sample::Index>(), cuts in cuts()) {
        let bytes = bytes_of(message);
        let (came, error) = decode(&bytes[..end.index(bytes.len())], &cuts);
        prop_assert!(came.is_empty() && error.is_none(), "{came:?} {error:?}");
    }

    #[test]
    fn noise_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000), cuts in cuts()) {
        let ((came, _), peak) = peak_while(|| decode(&bytes, &cuts));
        prop_assert!(came.is_empty());
        prop_assert!(peak < HEADER_LIMIT, "{peak} bytes");
    }

    /// Good checksums, and anything behind them: either no message, or one that means the same when it is sent on.
    #[test]
    fn a_body_made_up_by_a_liar_does_no_harm(
        (kind, body) in messages::lies(),
        cuts in cuts(),
    ) {
        let bytes = framed(kind, body.len() as u32, crc32c::crc32c(&body), &body);
        let ((came, error), peak) = peak_while(|| decode(&bytes, &cuts));
        prop_assert!(peak < MEMORY_LIMIT, "{peak} bytes for kind {kind}");
        prop_assert!(came.len() <= 1 && came.is_empty() == error.is_some());
        for message in came {
            messages::check_limits(&message);
            let (again, _) = decode(&bytes_of(message.clone()), &[]);
            prop_assert_eq!(messages::contents(&again), messages::contents(&[message]));
        }
    }

    /// A length is believed only up to the limit of its kind, and takes no more than that.
    #[test]
    fn a_length_made_up_by_a_liar_takes_no_memory(kind in any::<u8>(), length in any::<u32>(), checksum in any::<u32>()) {
        for length in [length, length >> 8, length >> 14] {
            let bytes = framed(kind, length, checksum, &[]);
            prop_assert_eq!(bytes.len(), HEADER_BYTES);
            let ((came, error), peak) = peak_while(|| decode(&bytes, &[]));
            prop_assert!(came.is_empty() || length == 0);
            prop_assert!(error.is_some() || length as usize <= HEADER_LIMIT);
            prop_assert!(peak < HEADER_LIMIT, "{peak} bytes for {length} of kind {kind}");
        }
    }
}
