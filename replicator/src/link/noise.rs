//! Noise, as the link uses it.

use std::io::{self, Read};

use snow::{Builder, HandshakeState, TransportState};

use super::Key;

/// AES-GCM rather than ChaCha20-Poly1305: every CPU that runs KVM on x86-64 has AES instructions, with which it is about twice
/// as fast (measured by the throughput test of this room).
const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// Bound into the handshake: another protocol, or another version of this one, with the same key is another link.
const PROLOGUE: &[u8] = b"kemari link 1";
/// A key share and a tag; the pattern has two messages of this size.
const MESSAGE_BYTES: usize = 32 + TAG_BYTES;
const TAG_BYTES: usize = 16;
/// A handshake message as a record.
pub(super) const HELLO_BYTES: usize = 2 + MESSAGE_BYTES;
/// Longest Noise message (Noise specification, section 3).
pub(super) const SEALED_MAX_BYTES: usize = 65535;
/// What one record can carry.
pub(super) const PLAIN_MAX_BYTES: usize = SEALED_MAX_BYTES - TAG_BYTES;

/// The handshake in progress.
pub(super) struct Handshake(Box<HandshakeState>);

/// Both directions, encrypted.
pub(super) struct Noise(Box<TransportState>);

fn failed(error: snow::Error) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, error)
}

fn builder(key: &Key) -> Result<Builder<'_>, snow::Error> {
    Builder::new(PATTERN.parse()?).prologue(PROLOGUE)?.psk(0, key.bytes())
}

impl Handshake {
    #[allow(clippy::expect_used, reason = "a constant pattern and a key of the right length, by its type")]
    pub(super) fn initiator(key: &Key) -> Handshake {
        Handshake(Box::new(builder(key).and_then(Builder::build_initiator).expect("a valid pattern")))
    }

    #[allow(clippy::expect_used, reason = "a constant pattern and a key of the right length, by its type")]
    pub(super) fn responder(key: &Key) -> Handshake {
        Handshake(Box::new(builder(key).and_then(Builder::build_responder).expect("a valid pattern")))
    }

    /// This side's message.
    pub(super) fn write(&mut self) -> io::Result<[u8; HELLO_BYTES]> {
        let mut hello = [0; HELLO_BYTES];
        hello[..2].copy_from_slice(&(MESSAGE_BYTES as u16).to_be_bytes());
        self.0.write_message(&[], &mut hello[2..]).map_err(failed)?;
        Ok(hello)
    }

    /// The other side's message.
    pub(super) fn read(&mut self, hello: &[u8; HELLO_BYTES]) -> io::Result<()> {
        if hello[..2] != (MESSAGE_BYTES as u16).to_be_bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a Kemari link"));
        }
        self.0.read_message(&hello[2..], &mut [0; MESSAGE_BYTES]).map_err(failed)?;
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<Noise> {
        Ok(Noise(Box::new(self.0.into_transport_mode().map_err(failed)?)))
    }
}

impl Noise {
    /// Encrypts up to [`PLAIN_MAX_BYTES`] into a record at the end of `wire`.
    pub(super) fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        let (start, sealed) = (wire.len(), plain.len() + TAG_BYTES);
        wire.extend_from_slice(&(sealed as u16).to_be_bytes());
        wire.resize(start + 2 + sealed, 0);
        self.0.write_message(plain, &mut wire[start + 2..]).map_err(failed)?;
        Ok(())
    }

    /// Decrypts one record's content into `plain`. Returns the length.
    pub(super) fn open(&mut self, sealed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
        self.0.read_message(sealed, plain).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "a record that the peer did not send: the link was tampered with",
            )
        })
    }
}

/// Reads what is there: `None` if nothing is, yet.
pub(super) fn read(stream: &mut impl Read, into: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.read(into) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other end")),
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
