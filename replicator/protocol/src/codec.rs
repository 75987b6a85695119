//! Messages as bytes.
//!
//! Every frame starts with the same 20 bytes, little-endian, in every version:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..4 | magic `KMRI` |
//! | 4..6 | framing version, 1 |
//! | 6 | kind of message |
//! | 7 | zero |
//! | 8..12 | length of the body |
//! | 12..16 | crc32c of the body |
//! | 16..20 | crc32c of the 16 bytes before |
//!
//! The second checksum covers the first, so together they cover the whole frame, and the length is known to be good before
//! anything is allocated or waited for. The checksum of a body serves twice: a checkpoint's checksum is taken over those of
//! its frames, so that each byte is summed once at either end.
//!
//! Bodies of [`Pages`](Message::Pages), [`SyncPages`](Message::SyncPages) and [`PageBack`](Message::PageBack) are the run table and the content; of
//! [`State`](Message::State) the bytes as they are; of everything else, postcard.

use kemari_core::{Generation, Image};
use serde::{Deserialize, Serialize};

use crate::chunk::{Chunk, ChunkError};
use crate::config::ConfigError;
use crate::limits::{NAME_BYTES, REASON_BYTES, STATE_FRAME_BYTES};
use crate::message::{Manifest, Message, Offer, Refuse, Select};

const MAGIC: [u8; 4] = *b"KMRI";
const FRAMING: u16 = 1;
const HEADER_BYTES: usize = 20;
/// Room for an offer with the largest identity, and far more than any other small message needs.
const SMALL_BYTES: usize = 256 << 10;

/// Kinds of message, as they are numbered on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Offer = 1,
    Select = 2,
    Refuse = 3,
    SyncBegin = 4,
    SyncPages = 5,
    Manifest = 6,
    Pages = 7,
    State = 8,
    Ack = 9,
    Rehearsed = 10,
    Heartbeat = 11,
    Probe = 12,
    ProbeReply = 13,
    Yield = 14,
    Promoted = 15,
    PromoteRefused = 16,
    Bye = 17,
    PageLost = 18,
    PageBack = 19,
}

impl Kind {
    const ALL: [Kind; 19] = [
        Kind::Offer,
        Kind::Select,
        Kind::Refuse,
        Kind::SyncBegin,
        Kind::SyncPages,
        Kind::Manifest,
        Kind::Pages,
        Kind::State,
        Kind::Ack,
        Kind::Rehearsed,
        Kind::Heartbeat,
        Kind::Probe,
        Kind::ProbeReply,
        Kind::Yield,
        Kind::Promoted,
        Kind::PromoteRefused,
        Kind::Bye,
        Kind::PageLost,
        Kind::PageBack,
    ];

    fn from_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Most bytes a body of this kind may have.
    fn limit(self) -> usize {
        match self {
            Kind::SyncPages | Kind::Pages | Kind::PageBack => Chunk::MAX_BYTES,
            Kind::State => STATE_FRAME_BYTES,
            Kind::Offer => SMALL_BYTES,
            _ => 4096,
        }
    }
}

/// Why bytes from the peer are no message. After any of these the stream means nothing more: close the link.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The stream does not speak this protocol.
    #[error("not a Kemari frame: it starts with {0:02x?}")]
    Magic([u8; 4]),
    /// The peer frames its messages in another way.
    #[error("the peer frames messages in version {0}, this side in version {FRAMING}; run the same release on both")]
    Framing(u16),
    /// The header's checksum is wrong.
    #[error("frame header damaged")]
    HeaderChecksum,
    /// An unknown kind of message, or a reserved byte that is not zero.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// A body longer than its kind allows.
    #[error("a frame of kind {kind} with {length} bytes is over its limit")]
    TooLong {
        /// As in the header.
        kind: u8,
        /// As in the header.
        length: u32,
    },
    /// The body's checksum is wrong.
    #[error("body of a frame of kind {0} damaged")]
    BodyChecksum(u8),
    /// A body that is not what its kind says.
    #[error("body of a frame of kind {kind} malformed")]
    Body {
        /// As in the header.
        kind: u8,
        /// What the decoder said.
        source: postcard::Error,
    },
    /// Bytes left over after the message.
    #[error("body of a frame of kind {kind} has {bytes} bytes too many")]
    Trailing {
        /// As in the header.
        kind: u8,
        /// How many.
        bytes: usize,
    },
    /// Pages whose runs and content do not fit together.
    #[error("malformed page chunk")]
    Chunk(#[from] ChunkError),
    /// A name or reason over its limit, or an empty frame of state.
    #[error("a text or byte string in a frame of kind {0} is empty or over its limit")]
    Text(u8),
    /// An identity over its limits.
    #[error("malformed identity")]
    Identity(#[from] ConfigError),
    /// The decoder was fed after it had failed.
    #[error("the stream was already given up")]
    GivenUp,
}

/// A message ready to be sent: the two slices of [`parts`](Frame::parts), one after the other.
///
/// Page content is not copied on its way here.
#[derive(Debug)]
pub struct Frame {
    head: Vec<u8>,
    body: Vec<u8>,
    start: usize,
}

impl Frame {
    /// Encodes a message.
    #[must_use]
    pub fn encode(message: Message) -> Frame {
        match message {
            Message::SyncPages(chunk) => Frame::pages(Kind::SyncPages, chunk),
            Message::Pages(chunk) => Frame::pages(Kind::Pages, chunk),
            Message::PageBack(chunk) => Frame::pages(Kind::PageBack, chunk),
            Message::State(bytes) => {
                let head = header(Kind::State, bytes.len(), crc32c::crc32c(&bytes));
                Frame { head, body: bytes, start: 0 }
            }
            Message::Offer(offer) => Frame::small(Kind::Offer, &offer),
            Message::Select(select) => Frame::small(Kind::Select, &select),
            Message::Refuse(refuse) => Frame::small(Kind::Refuse, &refuse),
            Message::SyncBegin => Frame::small(Kind::SyncBegin, &()),
            Message::Manifest(manifest) => Frame::small(Kind::Manifest, &manifest),
            Message::Ack(image) => Frame::small(Kind::Ack, &image),
            Message::Rehearsed(result) => Frame::small(Kind::Rehearsed, &result),
            Message::Heartbeat => Frame::small(Kind::Heartbeat, &()),
            Message::Probe { nonce } => Frame::small(Kind::Probe, &nonce),
            Message::ProbeReply { nonce } => Frame::small(Kind::ProbeReply, &nonce),
            Message::Yield { image, promote } => Frame::small(Kind::Yield, &(image, promote)),
            Message::Promoted { generation } => Frame::small(Kind::Promoted, &generation),
            Message::PromoteRefused { reason } => Frame::small(Kind::PromoteRefused, &reason),
            Message::PageLost { page } => Frame::small(Kind::PageLost, &page),
            Message::Bye { reason } => Frame::small(Kind::Bye, &reason),
        }
    }

    fn pages(kind: Kind, chunk: Chunk) -> Frame {
        let (table, checksum) = (chunk.table(), chunk.checksum());
        let (body, start) = chunk.into_buffer();
        let mut head = header(kind, table.len() + body.len() - start, checksum);
        head.extend_from_slice(&table);
        Frame { head, body, start }
    }

    fn small<T: Serialize>(kind: Kind, value: &T) -> Frame {
        #[allow(clippy::expect_used, reason = "these types have known lengths, and a Vec grows as needed")]
        let payload = postcard::to_stdvec(value).expect("plain data serializes");
        let mut head = header(kind, payload.len(), crc32c::crc32c(&payload));
        head.extend_from_slice(&payload);
        Frame { head, body: Vec::new(), start: 0 }
    }

    /// What to send, in this order. The second slice may be empty.
    #[must_use]
    pub fn parts(&self) -> (&[u8], &[u8]) {
        (&self.head, &self.body[self.start..])
    }

    /// Bytes in both parts.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a frame has a header and is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len() - self.start
    }
}

fn header(kind: Kind, length: usize, body_checksum: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES + 64);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&FRAMING.to_le_bytes());
    header.extend_from_slice(&[kind as u8, 0]);
    header.extend_from_slice(&(length as u32).to_le_bytes());
    header.extend_from_slice(&body_checksum.to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    header
}

/// What a good header announces.
#[derive(Clone, Copy, Debug)]
struct Announced {
    kind: Kind,
    length: usize,
    checksum: u32,
}

impl Announced {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Announced, DecodeError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(DecodeError::Magic(magic));
        }
        if word(16) != crc32c::crc32c(&bytes[..16]) {
            return Err(DecodeError::HeaderChecksum);
        }
        let framing = u16::from_le_bytes([bytes[4], bytes[5]]);
        if framing != FRAMING {
            return Err(DecodeError::Framing(framing));
        }
        let kind = Kind::from_byte(bytes[6]).filter(|_| bytes[7] == 0).ok_or(DecodeError::Kind(bytes[6]))?;
        let length = word(8);
        if length as usize > kind.limit() {
            return Err(DecodeError::TooLong { kind: kind as u8, length });
        }
        Ok(Announced { kind, length: length as usize, checksum: word(12) })
    }
}

/// Turns the byte stream of a link into messages. It keeps at most one frame, of bounded length.
#[derive(Debug, Default)]
pub struct Decoder {
    header: Vec<u8>,
    announced: Option<Announced>,
    body: Vec<u8>,
    failed: bool,
}

impl Decoder {
    /// A decoder for a new link.
    #[must_use]
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Consumes bytes from the front of `input`, up to the end of one message or the end of the input.
    ///
    /// Call it until it returns `None`: `while let Some(message) = decoder.feed(&mut input)? { … }`.
    ///
    /// # Errors
    /// Says what is wrong with the stream, which is then useless: hand the error to the state machine, and close the link.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Message>, DecodeError> {
        if self.failed {
            return Err(DecodeError::GivenUp);
        }
        let result = self.advance(input);
        self.failed = result.is_err();
        result
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Message>, DecodeError> {
        let announced = match self.announced {
            Some(announced) => announced,
            None => {
                take(input, &mut self.header, HEADER_BYTES);
                let Some(header) = self.header.first_chunk::<HEADER_BYTES>() else {
                    return Ok(None);
                };
                let announced = Announced::parse(header)?;
                self.header.clear();
                self.body = Vec::with_capacity(announced.length);
                *self.announced.insert(announced)
            }
        };
        take(input, &mut self.body, announced.length);
        if self.body.len() < announced.length {
            return Ok(None);
        }
        self.announced = None;
        decode(announced, std::mem::take(&mut self.body)).map(Some)
    }
}

/// Moves bytes from the front of `input` until `into` has `length`.
fn take(input: &mut &[u8], into: &mut Vec<u8>, length: usize) {
    let (taken, rest) = input.split_at(input.len().min(length - into.len()));
    into.extend_from_slice(taken);
    *input = rest;
}

fn decode(announced: Announced, body: Vec<u8>) -> Result<Message, DecodeError> {
    let Announced { kind, checksum, .. } = announced;
    if crc32c::crc32c(&body) != checksum {
        return Err(DecodeError::BodyChecksum(kind as u8));
    }
    Ok(match kind {
        Kind::SyncPages => Message::SyncPages(Chunk::from_body(body, checksum)?),
        Kind::Pages => Message::Pages(Chunk::from_body(body, checksum)?),
        Kind::State if body.is_empty() => return Err(DecodeError::Text(kind as u8)),
        Kind::State => Message::State(body),
        Kind::Offer => {
            let offer: Offer = whole(kind, &body)?;
            check_text(kind, &offer.node, NAME_BYTES)?;
            offer.identity.check()?;
            Message::Offer(offer)
        }
        Kind::Select => {
            let select: Select = whole(kind, &body)?;
            check_text(kind, &select.node, NAME_BYTES)?;
            Message::Select(select)
        }
        Kind::Refuse => {
            let refuse: Refuse = whole(kind, &body)?;
            check_text(kind, &refuse.reason, REASON_BYTES)?;
            Message::Refuse(refuse)
        }
        Kind::SyncBegin => whole(kind, &body).map(|()| Message::SyncBegin)?,
        Kind::Manifest => Message::Manifest(whole::<Manifest>(kind, &body)?),
        Kind::Ack => Message::Ack(whole(kind, &body)?),
        Kind::Rehearsed => {
            let result: Result<(), String> = whole(kind, &body)?;
            if let Err(reason) = &result {
                check_text(kind, reason, REASON_BYTES)?;
            }
            Message::Rehearsed(result)
        }
        Kind::Heartbeat => whole(kind, &body).map(|()| Message::Heartbeat)?,
        Kind::Probe => Message::Probe { nonce: whole(kind, &body)? },
        Kind::ProbeReply => Message::ProbeReply { nonce: whole(kind, &body)? },
        Kind::Yield => {
            let (image, promote): (Image, bool) = whole(kind, &body)?;
            Message::Yield { image, promote }
        }
        Kind::Promoted => Message::Promoted { generation: whole::<Generation>(kind, &body)? },
        Kind::PromoteRefused => Message::PromoteRefused { reason: text(kind, &body)? },
        Kind::Bye => Message::Bye { reason: text(kind, &body)? },
        Kind::PageLost => Message::PageLost { page: whole(kind, &body)? },
        Kind::PageBack => Message::PageBack(Chunk::from_body(body, checksum)?),
    })
}

fn whole<'a, T: Deserialize<'a>>(kind: Kind, body: &'a [u8]) -> Result<T, DecodeError> {
    let (value, rest) =
        postcard::take_from_bytes(body).map_err(|source| DecodeError::Body { kind: kind as u8, source })?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing { kind: kind as u8, bytes: rest.len() }) }
}

fn text(kind: Kind, body: &[u8]) -> Result<String, DecodeError> {
    let text: String = whole(kind, body)?;
    check_text(kind, &text, REASON_BYTES)?;
    Ok(text)
}

fn check_text(kind: Kind, text: &str, limit: usize) -> Result<(), DecodeError> {
    if text.len() <= limit { Ok(()) } else { Err(DecodeError::Text(kind as u8)) }
}
