//! A checkpoint on its way in, kept apart from the image until it is whole and verified.

use kemari_core::{Image, PAGE_SIZE, PageRun};

use crate::Chunk;
use crate::checkpoint::Sum;
use crate::limits::STATE_BYTES;
use crate::message::Manifest;
use crate::violation::Violation;

/// What has arrived of it. It takes no more memory than its manifest announced, which is bounded by the guest's size.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) manifest: Manifest,
    pub(super) chunks: Vec<Chunk>,
    pub(super) state: Vec<u8>,
    pages: u64,
    /// One past the last page that came: pages come in ascending order, so that none can come twice.
    end: u64,
    sum: Sum,
}

impl Staged {
    pub(super) fn new(manifest: Manifest, guest_pages: u64) -> Result<Staged, Violation> {
        let Manifest { image, pages, state_bytes, .. } = manifest;
        if pages > guest_pages || state_bytes > STATE_BYTES as u64 {
            return Err(Violation::Oversized { image, pages, state_bytes });
        }
        let sum = Sum::default();
        Ok(Staged { manifest, chunks: Vec::new(), state: Vec::new(), pages: 0, end: 0, sum })
    }

    fn image(&self) -> Image {
        self.manifest.image
    }

    pub(super) fn pages(&mut self, chunk: Chunk, guest_pages: u64) -> Result<(), Violation> {
        for run in chunk.runs() {
            check_range(*run, guest_pages)?;
            if run.first < self.end {
                return Err(Violation::PageOrder { page: run.first });
            }
            self.end = run.first + run.count;
        }
        self.pages += chunk.pages();
        if self.pages > self.manifest.pages {
            return Err(Violation::Excess { what: "pages", announced: self.manifest.pages, image: self.image() });
        }
        self.sum.pages(&chunk);
        self.chunks.push(chunk);
        Ok(())
    }

    pub(super) fn state(&mut self, piece: Vec<u8>) -> Result<(), Violation> {
        let announced = self.manifest.state_bytes;
        if (self.state.len() + piece.len()) as u64 > announced {
            return Err(Violation::Excess { what: "bytes of state", announced, image: self.image() });
        }
        self.sum.state(&piece);
        if self.state.is_empty() {
            self.state = piece;
        } else {
            self.state.extend_from_slice(&piece);
        }
        Ok(())
    }

    pub(super) fn is_whole(&self) -> bool {
        self.pages == self.manifest.pages && self.state.len() as u64 == self.manifest.state_bytes
    }

    /// Whether what came is what was sent.
    pub(super) fn verify(&self) -> Result<(), Violation> {
        let (image, found) = (self.image(), self.sum.value());
        if found == image.checksum { Ok(()) } else { Err(Violation::Checksum { image, found }) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE as u64 + self.state.len() as u64
    }
}

/// Whether these pages exist.
pub(super) fn check_range(run: PageRun, pages: u64) -> Result<(), Violation> {
    match run.end() {
        Some(end) if end <= pages => Ok(()),
        _ => Err(Violation::PageRange { run, pages }),
    }
}
