//! Frames on their way out.

use std::collections::VecDeque;
use std::io::{self, Write};

use kemari_protocol::Frame;

use super::noise::{HELLO_BYTES, Noise, PLAIN_MAX_BYTES};

/// Frames that wait, and the sealed records that the kernel has not taken yet.
///
/// A record is sealed only when the one before it has left: what is queued can be measured, and memory is not held twice.
#[derive(Default)]
pub(super) struct Outbox {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are in a record already.
    front_done: usize,
    frame_bytes: usize,
    plain: Vec<u8>,
    wire: Vec<u8>,
    wire_start: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, frame: Frame) {
        self.frame_bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// A message of the handshake, which goes as it is.
    pub(super) fn push_hello(&mut self, hello: &[u8; HELLO_BYTES]) {
        self.wire.extend_from_slice(hello);
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.frame_bytes + self.wire.len() - self.wire_start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued_bytes() == 0
    }

    /// Seals and sends until everything is sent or the kernel takes no more.
    pub(super) fn send(&mut self, stream: &mut impl Write, noise: &mut Noise) -> io::Result<()> {
        loop {
            self.send_raw(stream)?;
            if !self.wire.is_empty() || self.frame_bytes == 0 {
                return Ok(());
            }
            self.fill_record();
            noise.seal(&self.plain, &mut self.wire)?;
        }
    }

    /// Sends what is sealed already.
    pub(super) fn send_raw(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while self.wire_start < self.wire.len() {
            match stream.write(&self.wire[self.wire_start..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.wire_start += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.wire.clear();
        self.wire_start = 0;
        Ok(())
    }

    /// Gathers the next record's plaintext.
    fn fill_record(&mut self) {
        self.plain.clear();
        while self.plain.len() < PLAIN_MAX_BYTES
            && let Some(frame) = self.frames.front()
        {
            let (head, body) = frame.parts();
            let part = if self.front_done < head.len() {
                &head[self.front_done..]
            } else {
                &body[self.front_done - head.len()..]
            };
            let count = part.len().min(PLAIN_MAX_BYTES - self.plain.len());
            self.plain.extend_from_slice(&part[..count]);
            self.front_done += count;
            self.frame_bytes -= count;
            if self.front_done == frame.len() {
                self.frames.pop_front();
                self.front_done = 0;
            }
        }
    }
}
