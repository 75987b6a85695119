//! A page of the ring buffer, as `trace_pipe_raw` gives it (include/linux/ring_buffer.h, kernel/trace/ring_buffer.c).

/// Kinds of entries beside data of up to 28 words, in the lowest five bits of an entry's head.
const LARGE: u32 = 0;
const PADDING: u32 = 29;
const TIME_EXTEND: u32 = 30;
const TIME_STAMP: u32 = 31;
const HEAD_BYTES: usize = 4;
const DELTA_BITS: u32 = 27;

/// Bits of the page's length that say that records were lost before it, and that their number is behind its data.
const LOST: u64 = 1 << 31;
const LOST_COUNTED: u64 = 1 << 30;

/// How pages are laid out, by `events/header_page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLayout {
    /// Where the data begin, in bytes.
    pub data_offset: usize,
    /// Bytes of a whole page.
    pub page_bytes: usize,
}

impl Default for PageLayout {
    fn default() -> PageLayout {
        PageLayout { data_offset: 16, page_bytes: 4096 }
    }
}

/// Larger than any page that the kernel can be told to use (`buffer_subbuf_size_kb`).
const PAGE_BYTES_MAX: usize = 4 << 20;

impl PageLayout {
    /// Reads `events/header_page`. What it does not say is as it was when this was written.
    #[must_use]
    pub fn parse(text: &str) -> PageLayout {
        let number = |line: &str, key: &str| {
            line.split(';').find_map(|part| part.trim().strip_prefix(key)).and_then(|value| value.parse::<usize>().ok())
        };
        let parsed = text.lines().find(|line| line.contains("data;")).and_then(|line| {
            let (offset, size) = (number(line, "offset:")?, number(line, "size:")?);
            Some(PageLayout { data_offset: offset, page_bytes: offset.checked_add(size)? })
        });
        parsed.filter(|layout| layout.data_offset >= 16 && layout.page_bytes <= PAGE_BYTES_MAX).unwrap_or_default()
    }
}

/// A record in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The clock that the instance was set to, in nanoseconds.
    pub clock_ns: u64,
    /// From its number on.
    pub bytes: &'a [u8],
}

/// A page and how far it was read.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    rest: &'a [u8],
    clock_ns: u64,
    /// How many records were lost before this page; none if none were, 0 if nobody knows how many.
    pub lost: Option<u64>,
}

impl<'a> Page<'a> {
    /// Reads a page's head. A length that the page does not have is cut down to what it has.
    #[must_use]
    pub fn new(bytes: &'a [u8], layout: PageLayout) -> Page<'a> {
        let word =
            |at: usize| bytes.get(at..at + 8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        let commit = word(8).unwrap_or(0);
        let length = (commit & (LOST_COUNTED - 1)) as usize;
        let data = bytes.get(layout.data_offset..).unwrap_or_default();
        let lost = (commit & LOST != 0).then(|| {
            let counted = commit & LOST_COUNTED != 0;
            counted.then(|| word(layout.data_offset.saturating_add(length))).flatten().unwrap_or(0)
        });
        Page { rest: &data[..length.min(data.len())], clock_ns: word(0).unwrap_or(0), lost }
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.rest.get(at..at + 4)?.try_into().ok()?))
    }

    fn advance(&mut self, bytes: usize) -> Option<()> {
        self.rest = self.rest.get(bytes..)?;
        Some(())
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let head = self.word(0)?;
        let (kind, delta) = (head & 31, u64::from(head >> 5));
        match kind {
            PADDING if delta == 0 => None,
            PADDING => {
                // Its length does not count the head.
                let bytes = self.word(4)? as usize;
                self.clock_ns = self.clock_ns.wrapping_add(delta);
                self.advance(HEAD_BYTES.checked_add(bytes)?)?;
                Some(Entry::Nothing)
            }
            TIME_EXTEND => {
                let extension = delta.wrapping_add(u64::from(self.word(4)?) << DELTA_BITS);
                self.clock_ns = self.clock_ns.wrapping_add(extension);
                self.advance(2 * HEAD_BYTES)?;
                Some(Entry::Nothing)
            }
            TIME_STAMP => {
                // Absolute, without its highest bits, which do not fit.
                let stamp = delta | u64::from(self.word(4)?) << DELTA_BITS;
                let bits = 32 + DELTA_BITS;
                self.clock_ns = self.clock_ns >> bits << bits | stamp;
                self.advance(2 * HEAD_BYTES)?;
                Some(Entry::Nothing)
            }
            LARGE => {
                // Its length counts itself and not the head.
                let bytes = (self.word(4)? as usize).checked_sub(4)?;
                self.data(delta, 2 * HEAD_BYTES, bytes)
            }
            words => self.data(delta, HEAD_BYTES, words as usize * 4),
        }
    }

    fn data(&mut self, delta: u64, offset: usize, bytes: usize) -> Option<Entry<'a>> {
        let end = offset.checked_add(bytes)?;
        let data = self.rest.get(offset..end)?;
        self.clock_ns = self.clock_ns.wrapping_add(delta);
        // Entries begin at multiples of four.
        self.rest = self.rest.get(end.next_multiple_of(4)..).unwrap_or_default();
        Some(Entry::Data(Event { clock_ns: self.clock_ns, bytes: data }))
    }
}

enum Entry<'a> {
    Data(Event<'a>),
    Nothing,
}

impl<'a> Iterator for Page<'a> {
    type Item = Event<'a>;

    /// The next record; none at the end, or where the rest makes no sense.
    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            match self.entry() {
                Some(Entry::Data(event)) => return Some(event),
                Some(Entry::Nothing) => {}
                None => {
                    self.rest = &[];
                    return None;
                }
            }
        }
    }
}
