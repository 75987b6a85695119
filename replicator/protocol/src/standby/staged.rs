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

#[cfg(test)]
mod tests {
    use kemari_core::{Epoch, Generation};

    use super::*;

    const GUEST_PAGES: u64 = 8;

    fn manifest(pages: u64, state_bytes: u64) -> Manifest {
        let image = Image { generation: Generation { number: 1, id: 1 }, epoch: Epoch::FIRST, checksum: 0 };
        Manifest { image, onto: None, pages, state_bytes, unprotected: false }
    }

    fn staged(pages: u64, state_bytes: u64) -> Staged {
        Staged::new(manifest(pages, state_bytes), GUEST_PAGES).expect("within the limits")
    }

    fn chunk(first: u64, count: u64) -> Chunk {
        Chunk::new(vec![PageRun { first, count }], vec![0; count as usize * PAGE_SIZE]).expect("as long as it says")
    }

    #[test]
    fn what_is_announced_over_the_limit_is_refused_before_any_of_it_comes() {
        let limit = STATE_BYTES as u64;
        for (pages, state_bytes, good) in [
            (GUEST_PAGES, limit, true),
            (GUEST_PAGES + 1, 0, false),
            (0, limit + 1, false),
            (u64::MAX, u64::MAX, false),
        ] {
            let refused = Staged::new(manifest(pages, state_bytes), GUEST_PAGES).err();
            let expected = Violation::Oversized { image: manifest(0, 0).image, pages, state_bytes };
            assert_eq!(refused, (!good).then_some(expected));
        }
    }

    #[test]
    fn more_than_was_announced_is_refused() {
        let mut staged = staged(3, 10);
        staged.pages(chunk(0, 2), GUEST_PAGES).expect("announced");
        let excess = staged.pages(chunk(2, 2), GUEST_PAGES);
        assert!(matches!(excess, Err(Violation::Excess { what: "pages", announced: 3, .. })), "{excess:?}");
        let mut staged = self::staged(0, 10);
        staged.state(vec![1; 10]).expect("announced");
        assert!(staged.is_whole());
        let excess = staged.state(vec![1]);
        assert!(matches!(excess, Err(Violation::Excess { what: "bytes of state", announced: 10, .. })), "{excess:?}");
        assert_eq!(staged.bytes(), 10, "what was refused is not kept");
    }

    #[test]
    fn pages_are_of_the_guest_and_come_once() {
        let mut staged = staged(8, 0);
        staged.pages(chunk(2, 2), GUEST_PAGES).expect("new");
        assert_eq!(staged.pages(chunk(3, 1), GUEST_PAGES), Err(Violation::PageOrder { page: 3 }));
        let run = PageRun { first: 7, count: 2 };
        assert_eq!(staged.pages(chunk(7, 2), GUEST_PAGES), Err(Violation::PageRange { run, pages: GUEST_PAGES }));
    }
}
