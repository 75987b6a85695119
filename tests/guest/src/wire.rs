//! The ledger's wire and disk formats, shared by the guest and the clients on the host.
//!
//! Everything is little-endian and fixed in size. A TCP connection to [`PORT`] carries [`Request`]s of [`MESSAGE`] bytes
//! one way and, in the same order, one [`Reply`] of [`MESSAGE`] bytes for each the other way. Requests may be pipelined.
//! Any datagram to UDP [`UDP_PORT`] is answered by one [`Reply::Counter`] with tag 0.
//!
//! Request (bytes not named are zero):
//!
//! | offset | type | field |
//! | --- | --- | --- |
//! | 0 | u32 | `0x31514c4b` ("KLQ1") |
//! | 4 | u16 | operation: 1 append, 2 get, 3 counter, 4 stat |
//! | 8 | u64 | tag, chosen by the client and returned |
//! | 16 | u32 | client (append) |
//! | 24 | u64 | sequence number (append) |
//! | 32 | u64 | index (get) |
//! | 40 | 16 bytes | payload (append) |
//! | 60 | u32 | CRC-32C of bytes 0..60 |
//!
//! Reply (bytes not named are zero):
//!
//! | offset | type | field |
//! | --- | --- | --- |
//! | 0 | u32 | `0x31524c4b` ("KLR1") |
//! | 4 | u16 | kind: 1 appended, 2 entry, 3 counter, 4 stat, 5 refused |
//! | 6 | u16 | appended: 1 if it was a repetition; stat: 1 if a self-check failed; refused: the [`Refusal`] |
//! | 8 | u64 | tag of the request |
//! | 16 | u32 | client (appended, entry) |
//! | 24 | u64 | sequence number (appended, entry); uptime in ms (stat) |
//! | 32 | u64 | index (appended, entry); entries in the ledger (stat) |
//! | 40 | u64 | counter (appended, counter); pages dirtied by the workload (stat) |
//! | 40 | 16 bytes | payload (entry) |
//! | 60 | u32 | CRC-32C of bytes 0..60 |

/// TCP port of the ledger.
pub const PORT: u16 = 7777;
/// UDP port of the counter.
pub const UDP_PORT: u16 = 7778;
/// Bytes in every request and every reply.
pub const MESSAGE: usize = 64;
/// Bytes in a disk sector; one entry fills one sector.
pub const SECTOR: usize = 512;
/// Sector of entry 0; before it is the [`header`].
pub const FIRST_ENTRY_SECTOR: u64 = 1;
/// Version of the disk format, kept in the [`header`].
pub const DISK_VERSION: u32 = 1;
/// How many appends may be on their way to the disk at once. After a crash no more than this many sectors beyond the
/// end of the ledger can hold leftovers.
pub const APPENDS_IN_FLIGHT: usize = 16;

const REQUEST_MAGIC: u32 = u32::from_le_bytes(*b"KLQ1");
const REPLY_MAGIC: u32 = u32::from_le_bytes(*b"KLR1");
const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"KEMARILG");
const ENTRY_MAGIC: u64 = u64::from_le_bytes(*b"KEMARIEN");

const CRC: usize = MESSAGE - 4;

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Put one entry on the disk. A client's sequence numbers grow; the same `(client, seq)` again is answered with the
    /// index it already has and not appended twice, whatever its payload says.
    Append {
        /// Who appends; clients choose distinct numbers.
        client: u32,
        /// The client's own number for this entry, greater than all before it.
        seq: u64,
        /// What to keep.
        payload: [u8; 16],
    },
    /// Read one entry back from the disk.
    Get {
        /// Its place in the ledger, from 0.
        index: u64,
    },
    /// Increment the counter and return it.
    Counter,
    /// Report how the guest is.
    Stat,
}

/// What the guest answers.
///
/// `counter` is one number kept in RAM only, incremented for every reply that carries it: of any two such replies the
/// later one (in the order of a connection) has the greater counter, or memory was rolled back or the guest rebooted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The entry and all before it are on the disk (and flushed, with `flush=1`).
    Appended {
        /// As requested.
        client: u32,
        /// As requested.
        seq: u64,
        /// Place in the ledger, from 0.
        index: u64,
        /// The RAM counter.
        counter: u64,
        /// It had been appended by an earlier request.
        repeated: bool,
    },
    /// The entry as read from the disk.
    Entry(Entry),
    /// The RAM counter, incremented.
    Counter {
        /// The RAM counter.
        counter: u64,
    },
    /// How the guest is.
    Stat(Stat),
    /// The request was not carried out.
    Refused(Refusal),
}

/// The guest's account of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Milliseconds since boot, by the guest's clock.
    pub uptime_ms: u64,
    /// Entries in the ledger that are on the disk.
    pub entries: u64,
    /// Pages written by the memory workload since boot.
    pub dirtied: u64,
    /// The guest found memory or disk other than it had left them. Never cleared but by a reboot.
    pub corrupt: bool,
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Refusal {
    /// No entry has this index.
    NoSuchEntry = 1,
    /// The disk (or the guest's memory for it) holds no more entries.
    Full = 2,
    /// The disk reported an error, or returned something else than was written.
    Disk = 3,
    /// The sequence number is smaller than an earlier one of this client, and was never appended.
    Stale = 4,
    /// The request could not be decoded; the guest closes the connection after this.
    Malformed = 5,
}

/// One ledger entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Place in the ledger, from 0.
    pub index: u64,
    /// Who appended it.
    pub client: u32,
    /// The client's number for it.
    pub seq: u64,
    /// What it keeps.
    pub payload: [u8; 16],
}

/// Why bytes are not a message or not a sector of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Something else begins with other bytes.
    Magic,
    /// The checksum does not fit: damaged or torn.
    Checksum,
    /// A field holds a value this version does not know.
    Unknown,
}

impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Magic => "not of the ledger (wrong magic)",
            Self::Checksum => "checksum mismatch",
            Self::Unknown => "a field holds an unknown value",
        })
    }
}

impl core::error::Error for WireError {}

impl Request {
    /// The bytes of this request under `tag`.
    #[must_use]
    pub fn encode(&self, tag: u64) -> [u8; MESSAGE] {
        let mut m = [0; MESSAGE];
        let op: u16 = match *self {
            Self::Append { client, seq, payload } => {
                put(&mut m, 16, client.to_le_bytes());
                put(&mut m, 24, seq.to_le_bytes());
                put(&mut m, 40, payload);
                1
            }
            Self::Get { index } => {
                put(&mut m, 32, index.to_le_bytes());
                2
            }
            Self::Counter => 3,
            Self::Stat => 4,
        };
        put(&mut m, 4, op.to_le_bytes());
        seal(&mut m, REQUEST_MAGIC, tag);
        m
    }

    /// The tag and the request in `bytes`.
    ///
    /// # Errors
    /// When the magic, the checksum or the operation is wrong.
    pub fn decode(m: &[u8; MESSAGE]) -> Result<(u64, Self), WireError> {
        let tag = unseal(m, REQUEST_MAGIC)?;
        let request = match u16_at(m, 4) {
            1 => Self::Append { client: u32_at(m, 16), seq: u64_at(m, 24), payload: take(m, 40) },
            2 => Self::Get { index: u64_at(m, 32) },
            3 => Self::Counter,
            4 => Self::Stat,
            _ => return Err(WireError::Unknown),
        };
        Ok((tag, request))
    }
}

impl Reply {
    /// The bytes of this reply to the request that had `tag`.
    #[must_use]
    pub fn encode(&self, tag: u64) -> [u8; MESSAGE] {
        let mut m = [0; MESSAGE];
        let (kind, detail): (u16, u16) = match *self {
            Self::Appended { client, seq, index, counter, repeated } => {
                put(&mut m, 16, client.to_le_bytes());
                put(&mut m, 24, seq.to_le_bytes());
                put(&mut m, 32, index.to_le_bytes());
                put(&mut m, 40, counter.to_le_bytes());
                (1, u16::from(repeated))
            }
            Self::Entry(entry) => {
                put(&mut m, 16, entry.client.to_le_bytes());
                put(&mut m, 24, entry.seq.to_le_bytes());
                put(&mut m, 32, entry.index.to_le_bytes());
                put(&mut m, 40, entry.payload);
                (2, 0)
            }
            Self::Counter { counter } => {
                put(&mut m, 40, counter.to_le_bytes());
                (3, 0)
            }
            Self::Stat(stat) => {
                put(&mut m, 24, stat.uptime_ms.to_le_bytes());
                put(&mut m, 32, stat.entries.to_le_bytes());
                put(&mut m, 40, stat.dirtied.to_le_bytes());
                (4, u16::from(stat.corrupt))
            }
            Self::Refused(refusal) => (5, refusal as u16),
        };
        put(&mut m, 4, kind.to_le_bytes());
        put(&mut m, 6, detail.to_le_bytes());
        seal(&mut m, REPLY_MAGIC, tag);
        m
    }

    /// The tag and the reply in `bytes`.
    ///
    /// # Errors
    /// When the magic, the checksum, the kind or the refusal is wrong.
    pub fn decode(m: &[u8; MESSAGE]) -> Result<(u64, Self), WireError> {
        let tag = unseal(m, REPLY_MAGIC)?;
        let detail = u16_at(m, 6);
        let reply = match u16_at(m, 4) {
            1 => Self::Appended {
                client: u32_at(m, 16),
                seq: u64_at(m, 24),
                index: u64_at(m, 32),
                counter: u64_at(m, 40),
                repeated: detail != 0,
            },
            2 => Self::Entry(Entry {
                index: u64_at(m, 32),
                client: u32_at(m, 16),
                seq: u64_at(m, 24),
                payload: take(m, 40),
            }),
            3 => Self::Counter { counter: u64_at(m, 40) },
            4 => Self::Stat(Stat {
                uptime_ms: u64_at(m, 24),
                entries: u64_at(m, 32),
                dirtied: u64_at(m, 40),
                corrupt: detail != 0,
            }),
            5 => Self::Refused(Refusal::try_from(detail)?),
            _ => return Err(WireError::Unknown),
        };
        Ok((tag, reply))
    }
}

impl TryFrom<u16> for Refusal {
    type Error = WireError;

    fn try_from(code: u16) -> Result<Self, WireError> {
        Ok(match code {
            1 => Self::NoSuchEntry,
            2 => Self::Full,
            3 => Self::Disk,
            4 => Self::Stale,
            5 => Self::Malformed,
            _ => return Err(WireError::Unknown),
        })
    }
}

impl Entry {
    /// The sector that keeps this entry: offset 0 magic "KEMARIEN", 8 index (u64), 16 client (u32), 24 sequence number
    /// (u64), 32 payload (16 bytes), 508 CRC-32C of bytes 0..508. It depends on the entry alone, so writing it twice,
    /// from whichever host, is the same as writing it once.
    #[must_use]
    pub fn to_sector(&self) -> [u8; SECTOR] {
        let mut s = [0; SECTOR];
        put(&mut s, 0, ENTRY_MAGIC.to_le_bytes());
        put(&mut s, 8, self.index.to_le_bytes());
        put(&mut s, 16, self.client.to_le_bytes());
        put(&mut s, 24, self.seq.to_le_bytes());
        put(&mut s, 32, self.payload);
        let crc = crc32c(&s[..SECTOR - 4]);
        put(&mut s, SECTOR - 4, crc.to_le_bytes());
        s
    }

    /// The entry kept in a sector. Whether its index fits the sector's place is the caller's to check.
    ///
    /// # Errors
    /// When the sector holds no entry, or a torn one.
    pub fn from_sector(s: &[u8; SECTOR]) -> Result<Self, WireError> {
        check_sector(s, ENTRY_MAGIC)?;
        Ok(Self { index: u64_at(s, 8), client: u32_at(s, 16), seq: u64_at(s, 24), payload: take(s, 32) })
    }
}

/// Sector 0 of a ledger: offset 0 magic "KEMARILG", 8 version (u32), 508 CRC-32C of bytes 0..508.
#[must_use]
pub fn header() -> [u8; SECTOR] {
    let mut s = [0; SECTOR];
    put(&mut s, 0, HEADER_MAGIC.to_le_bytes());
    put(&mut s, 8, DISK_VERSION.to_le_bytes());
    let crc = crc32c(&s[..SECTOR - 4]);
    put(&mut s, SECTOR - 4, crc.to_le_bytes());
    s
}

/// Whether `sector` is the header of a ledger of this version.
///
/// # Errors
/// When it is something else, damaged, or of another version.
pub fn check_header(sector: &[u8; SECTOR]) -> Result<(), WireError> {
    check_sector(sector, HEADER_MAGIC)?;
    if u32_at(sector, 8) == DISK_VERSION { Ok(()) } else { Err(WireError::Unknown) }
}

/// CRC-32C (Castagnoli, as in RFC 3720), bit-reflected, initial value and final XOR all ones.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

static CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x82f6_3b78 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

fn check_sector(s: &[u8; SECTOR], magic: u64) -> Result<(), WireError> {
    if u64_at(s, 0) != magic {
        return Err(WireError::Magic);
    }
    if u32_at(s, SECTOR - 4) != crc32c(&s[..SECTOR - 4]) {
        return Err(WireError::Checksum);
    }
    Ok(())
}

fn seal(m: &mut [u8; MESSAGE], magic: u32, tag: u64) {
    put(m, 0, magic.to_le_bytes());
    put(m, 8, tag.to_le_bytes());
    let crc = crc32c(&m[..CRC]);
    put(m, CRC, crc.to_le_bytes());
}

fn unseal(m: &[u8; MESSAGE], magic: u32) -> Result<u64, WireError> {
    if u32_at(m, 0) != magic {
        return Err(WireError::Magic);
    }
    if u32_at(m, CRC) != crc32c(&m[..CRC]) {
        return Err(WireError::Checksum);
    }
    Ok(u64_at(m, 8))
}

fn put<const N: usize>(into: &mut [u8], at: usize, bytes: [u8; N]) {
    into[at..at + N].copy_from_slice(&bytes);
}

fn take<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&from[at..at + N]);
    bytes
}

fn u16_at(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(take(from, at))
}

fn u32_at(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(from, at))
}

fn u64_at(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(take(from, at))
}
