//! What a guest that was failed over must never do to those who look at it from outside.

use std::io;

use kemari_guest::wire::{Refusal, WireError};

/// Something that was seen, and is not so any more; or an answer that cannot be right.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// A TCP connection to the guest ended.
    #[error("client {client}: its TCP connection broke: {source}")]
    Broken {
        /// Whose.
        client: u32,
        /// How.
        source: io::Error,
    },
    /// The guest closed a TCP connection.
    #[error("client {client}: the guest closed its TCP connection")]
    Closed {
        /// Whose.
        client: u32,
    },
    /// Requests are outstanding and nothing is answered.
    #[error("client {client}: no answer for {seconds} s, with {outstanding} requests outstanding")]
    Stalled {
        /// Whose.
        client: u32,
        /// For how long.
        seconds: u64,
        /// How many.
        outstanding: usize,
    },
    /// Bytes that are no reply.
    #[error("client {client}: an answer that cannot be read: {source}")]
    Garbled {
        /// Whose.
        client: u32,
        /// What is wrong.
        source: WireError,
    },
    /// A reply to something else than what was asked.
    #[error("client {client}: asked {asked}, was answered {answered}")]
    WrongAnswer {
        /// Whose.
        client: u32,
        /// The oldest outstanding request.
        asked: String,
        /// The reply.
        answered: String,
    },
    /// The guest would not carry a request out.
    #[error("client {client}: refused {asked}: {refusal:?}")]
    Refused {
        /// Whose.
        client: u32,
        /// The request.
        asked: String,
        /// Why.
        refusal: Refusal,
    },
    /// The guest's counter was seen higher, or just as high, before.
    #[error(
        "{who}: the counter is {counter}, but {seen} had been seen before it was asked for: memory was rolled back, or the guest rebooted"
    )]
    RolledBack {
        /// Who asked.
        who: String,
        /// The answer.
        counter: u64,
        /// Seen before the request was sent.
        seen: u64,
    },
    /// One number was given out twice.
    #[error("{who}: the counter is {counter}, which another answer had already: memory was rolled back")]
    CounterTwice {
        /// Who asked.
        who: String,
        /// The answer.
        counter: u64,
    },
    /// Indexes of one client that do not grow.
    #[error("client {client}: entry {seq} is at index {index}, its entry before at {before}")]
    IndexNotGrowing {
        /// Whose.
        client: u32,
        /// Its number.
        seq: u64,
        /// Its place.
        index: u64,
        /// The place of the one before.
        before: u64,
    },
    /// The guest itself noticed.
    #[error("the guest's own check found memory or disk other than it had left them")]
    Corrupt,
    /// The disk does not begin like a ledger.
    #[error("the disk's header is damaged: {source}")]
    Header {
        /// What is wrong.
        source: WireError,
    },
    /// A sector that is no entry.
    #[error("the disk's entry {index} is damaged: {source}")]
    Damaged {
        /// Its place.
        index: u64,
        /// What is wrong.
        source: WireError,
    },
    /// An acknowledged entry is not where the answer said.
    #[error("client {client}: entry {seq} was acknowledged at index {index}; the disk has {found} there")]
    Missing {
        /// Whose.
        client: u32,
        /// Its number.
        seq: u64,
        /// Where it should be.
        index: u64,
        /// What is there.
        found: String,
    },
    /// An entry is on the disk more than once.
    #[error("client {client}: entry {seq} is on the disk twice, at index {first} and at {second}")]
    Twice {
        /// Whose.
        client: u32,
        /// Its number.
        seq: u64,
        /// One place.
        first: u64,
        /// The other.
        second: u64,
    },
    /// An entry that nobody can have sent like this.
    #[error("the disk's entry {index} is not what its client sent: {found}")]
    Altered {
        /// Its place.
        index: u64,
        /// What is there.
        found: String,
    },
    /// An empty sector with entries after it.
    #[error("the disk has no entry {index}, but later ones")]
    Hole {
        /// Where.
        index: u64,
    },
    /// The disk showed something at the kill that is gone after it.
    #[error("the disk had {before} at index {index} when the primary was killed; now it has {after}")]
    Rewritten {
        /// Where.
        index: u64,
        /// Then.
        before: String,
        /// Now.
        after: String,
    },
}
