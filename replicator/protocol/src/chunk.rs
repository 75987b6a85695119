//! Page content on its way: a few runs of pages and their bytes, copied once at each end.

use std::collections::VecDeque;

use kemari_core::{PAGE_SIZE, PageRun, PageSet};

use crate::limits::CHUNK_PAGES;

/// Up to [`CHUNK_PAGES`] pages with their content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    runs: Vec<PageRun>,
    /// The content starts at `start`: a received frame is kept whole so that its pages need no second copy.
    buffer: Vec<u8>,
    start: usize,
    checksum: u32,
}

/// A [`Chunk`] whose parts do not fit together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChunkError {
    /// No run, an empty run, or too many pages.
    #[error("a chunk has 1 to {CHUNK_PAGES} pages in non-empty runs")]
    Pages,
    /// As many bytes are needed as the runs have.
    #[error("{bytes} bytes do not fill {pages} pages")]
    Length {
        /// In the runs.
        pages: u64,
        /// Of content.
        bytes: usize,
    },
}

/// Bytes of the run table of a chunk with that many runs: the count, then (first u64, count u32) each.
fn table_bytes(runs: usize) -> usize {
    4 + 12 * runs
}

fn count_pages(runs: &[PageRun]) -> Result<u64, ChunkError> {
    let mut pages = 0;
    for run in runs {
        if run.count == 0 || run.count > CHUNK_PAGES || run.end().is_none() {
            return Err(ChunkError::Pages);
        }
        pages += run.count;
    }
    if (1..=CHUNK_PAGES).contains(&pages) { Ok(pages) } else { Err(ChunkError::Pages) }
}

/// Pages copied out of a guest that stands still. What it takes to make [`Chunk`]s of them can wait until it runs again.
#[derive(Debug)]
#[must_use = "pages that are not sent are missing at the standby"]
pub struct Gathered(Vec<(Vec<PageRun>, Vec<u8>)>);

impl Gathered {
    /// Copies `pages`, asking `copy` to append the content of each run it is given.
    ///
    /// # Errors
    /// Whatever `copy` fails with.
    pub fn copy<E>(
        pages: &PageSet,
        mut copy: impl FnMut(PageRun, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Gathered, E> {
        let mut runs = pages.runs().collect();
        let batches = std::iter::from_fn(|| next_batch(&mut runs));
        batches
            .map(|batch| copy_runs(&batch, &mut copy).map(|data| (batch, data)))
            .collect::<Result<_, E>>()
            .map(Gathered)
    }

    /// Takes the checksums.
    ///
    /// # Errors
    /// What was copied is not as long as the pages are.
    pub fn into_chunks(self) -> Result<Vec<Chunk>, ChunkError> {
        self.0.into_iter().map(|(runs, data)| Chunk::new(runs, data)).collect()
    }
}

fn copy_runs<E>(runs: &[PageRun], copy: &mut impl FnMut(PageRun, &mut Vec<u8>) -> Result<(), E>) -> Result<Vec<u8>, E> {
    let pages = runs.iter().map(|run| run.count).sum::<u64>() as usize;
    let mut data = Vec::with_capacity(pages * PAGE_SIZE);
    for run in runs {
        copy(*run, &mut data)?;
    }
    Ok(data)
}

impl Chunk {
    /// Most bytes of a chunk on the wire.
    pub(crate) const MAX_BYTES: usize = 4 + 12 * CHUNK_PAGES as usize + CHUNK_PAGES as usize * PAGE_SIZE;

    /// The pages of `runs`, whose content is `data`, one run after the other.
    ///
    /// # Errors
    /// No page or more than [`CHUNK_PAGES`], or `data` is not as long as the pages are.
    pub fn new(runs: Vec<PageRun>, data: Vec<u8>) -> Result<Chunk, ChunkError> {
        let pages = count_pages(&runs)?;
        if data.len() as u64 != pages * PAGE_SIZE as u64 {
            return Err(ChunkError::Length { pages, bytes: data.len() });
        }
        let mut chunk = Chunk { runs, buffer: data, start: 0, checksum: 0 };
        chunk.checksum = crc32c::crc32c_append(crc32c::crc32c(&chunk.table()), &chunk.buffer);
        Ok(chunk)
    }

    /// One chunk of `runs`, filled by `copy`.
    pub(crate) fn copied<E: From<ChunkError>>(
        runs: Vec<PageRun>,
        copy: &mut impl FnMut(PageRun, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Chunk, E> {
        let data = copy_runs(&runs, copy)?;
        Ok(Chunk::new(runs, data)?)
    }

    /// Reads a chunk from the body of a frame, whose `checksum` was verified.
    pub(crate) fn from_body(buffer: Vec<u8>, checksum: u32) -> Result<Chunk, ChunkError> {
        let runs = parse_table(&buffer).ok_or(ChunkError::Pages)?;
        let (pages, start) = (count_pages(&runs)?, table_bytes(runs.len()));
        let bytes = buffer.len() - start;
        if bytes as u64 != pages * PAGE_SIZE as u64 {
            return Err(ChunkError::Length { pages, bytes });
        }
        Ok(Chunk { runs, buffer, start, checksum })
    }

    /// The run table as it travels in front of the content.
    pub(crate) fn table(&self) -> Vec<u8> {
        let mut table = Vec::with_capacity(table_bytes(self.runs.len()));
        table.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        for run in &self.runs {
            table.extend_from_slice(&run.first.to_le_bytes());
            table.extend_from_slice(&(run.count as u32).to_le_bytes());
        }
        table
    }

    /// Its pages.
    #[must_use]
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// Each run with its content.
    pub fn contents(&self) -> impl Iterator<Item = (PageRun, &[u8])> {
        let mut rest = self.data();
        self.runs.iter().map(move |run| {
            let (content, more) = rest.split_at(run.count as usize * PAGE_SIZE);
            rest = more;
            (*run, content)
        })
    }

    /// All content, one run after the other.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// How many pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        (self.data().len() / PAGE_SIZE) as u64
    }

    /// crc32c over table and content.
    pub(crate) fn checksum(&self) -> u32 {
        self.checksum
    }

    /// The content and where it starts, for the frame that carries it.
    pub(crate) fn into_buffer(self) -> (Vec<u8>, usize) {
        (self.buffer, self.start)
    }
}

fn parse_table(body: &[u8]) -> Option<Vec<PageRun>> {
    let (count, rest) = body.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count);
    if u64::from(count) > CHUNK_PAGES {
        return None;
    }
    let (table, _) = rest.split_at_checked(12 * count as usize)?;
    let (entries, _) = table.as_chunks::<12>();
    Some(entries.iter().map(parse_run).collect())
}

fn parse_run(entry: &[u8; 12]) -> PageRun {
    let (mut first, mut count) = ([0; 8], [0; 4]);
    first.copy_from_slice(&entry[..8]);
    count.copy_from_slice(&entry[8..]);
    PageRun { first: u64::from_le_bytes(first), count: u32::from_le_bytes(count).into() }
}

/// Takes the next pages off the front of `runs`: as many as fit a chunk.
pub(crate) fn next_batch(runs: &mut VecDeque<PageRun>) -> Option<Vec<PageRun>> {
    let (mut batch, mut room) = (Vec::new(), CHUNK_PAGES);
    while room > 0
        && let Some(run) = runs.front_mut()
    {
        let count = run.count.min(room);
        batch.push(PageRun { first: run.first, count });
        room -= count;
        if run.count > count {
            *run = PageRun { first: run.first + count, count: run.count - count };
        } else {
            runs.pop_front();
        }
    }
    (!batch.is_empty()).then_some(batch)
}
