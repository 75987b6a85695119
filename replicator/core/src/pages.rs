//! Sets of guest pages.

/// Bytes in a page of guest memory.
pub const PAGE_SIZE: usize = 4096;

const BITS: u64 = u64::BITS as u64;

/// A contiguous run of pages, by page number (guest physical address / [`PAGE_SIZE`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PageRun {
    /// Number of the first page.
    pub first: u64,
    /// How many pages; never 0 in a run that a [`PageSet`] made.
    pub count: u64,
}

impl PageRun {
    /// One past the last page; `None` if that does not fit a `u64` (a run from an untrusted source).
    #[must_use]
    pub fn end(self) -> Option<u64> {
        self.first.checked_add(self.count)
    }
}

/// A set of pages of a guest of fixed size, one bit a page.
///
/// Page numbers at or past the size are a caller's mistake and are ignored by [`insert`](PageSet::insert).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    size: u64,
}

impl PageSet {
    /// The empty set over a guest of `size` pages.
    #[must_use]
    pub fn empty(size: u64) -> PageSet {
        PageSet { words: vec![0; size.div_ceil(BITS) as usize], size }
    }

    /// All pages of a guest of `size` pages.
    #[must_use]
    pub fn full(size: u64) -> PageSet {
        let mut set = PageSet { words: vec![u64::MAX; size.div_ceil(BITS) as usize], size };
        if let Some(last) = set.words.last_mut()
            && !size.is_multiple_of(BITS)
        {
            *last = (1 << (size % BITS)) - 1;
        }
        set
    }

    /// Pages in the guest (not in the set).
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a page.
    pub fn insert(&mut self, page: u64) {
        if page < self.size {
            self.words[(page / BITS) as usize] |= 1 << (page % BITS);
        }
    }

    /// Adds 64 pages from `first`, a multiple of 64, as KVM_GET_DIRTY_LOG delivers them: bit *n* is page `first + n`.
    pub fn insert_word(&mut self, first: u64, bits: u64) {
        debug_assert_eq!(first % BITS, 0);
        let index = (first / BITS) as usize;
        if let Some(word) = self.words.get_mut(index) {
            let tail = self.size - first;
            *word |= if tail < BITS { bits & ((1 << tail) - 1) } else { bits };
        }
    }

    /// Adds a run of pages.
    pub fn insert_run(&mut self, run: PageRun) {
        for page in run.first..run.end().unwrap_or(u64::MAX).min(self.size) {
            self.insert(page);
        }
    }

    /// Removes a run of pages.
    pub fn remove_run(&mut self, run: PageRun) {
        for page in run.first..run.end().unwrap_or(u64::MAX).min(self.size) {
            self.words[(page / BITS) as usize] &= !(1 << (page % BITS));
        }
    }

    /// Whether a page is in the set.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        page < self.size && self.words[(page / BITS) as usize] >> (page % BITS) & 1 == 1
    }

    /// Adds every page of `other`, a set over the same guest.
    pub fn union(&mut self, other: &PageSet) {
        debug_assert_eq!(self.size, other.size);
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Takes every page out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Pages in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether the set has no page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The set as maximal runs, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let first = self.next(from, true)?;
            let end = self.next(first, false).unwrap_or(self.size);
            from = end;
            Some(PageRun { first, count: end - first })
        })
    }

    /// The first page at or after `from` that is in the set (`member`) or out of it.
    fn next(&self, from: u64, member: bool) -> Option<u64> {
        if from >= self.size {
            return None;
        }
        let mut index = (from / BITS) as usize;
        let flip = if member { 0 } else { u64::MAX };
        let mut word = (self.words[index] ^ flip) & (u64::MAX << (from % BITS));
        while word == 0 {
            index += 1;
            word = self.words.get(index)? ^ flip;
        }
        let page = index as u64 * BITS + u64::from(word.trailing_zeros());
        (page < self.size).then_some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(set: &PageSet) -> Vec<(u64, u64)> {
        set.runs().map(|run| (run.first, run.count)).collect()
    }

    #[test]
    fn runs_are_maximal_and_cross_words() {
        let mut set = PageSet::empty(200);
        for page in [0, 1, 2, 60, 61, 62, 63, 64, 65, 127, 199, 200, 5000] {
            set.insert(page);
        }
        assert_eq!(runs(&set), [(0, 3), (60, 6), (127, 1), (199, 1)]);
        assert_eq!(set.count(), 11);
    }

    #[test]
    fn full_has_no_page_past_the_end() {
        for size in [0, 1, 63, 64, 65, 128, 1000] {
            let set = PageSet::full(size);
            assert_eq!(set.count(), size);
            assert_eq!(runs(&set), if size == 0 { vec![] } else { vec![(0, size)] });
        }
    }

    #[test]
    fn words_of_the_dirty_log_are_cut_at_the_size() {
        let mut set = PageSet::empty(70);
        set.insert_word(64, u64::MAX);
        assert_eq!(runs(&set), [(64, 6)]);
        set.insert_word(128, u64::MAX);
        assert_eq!(set.count(), 6);
    }

    #[test]
    fn a_run_from_a_liar_adds_what_exists() {
        let mut set = PageSet::empty(10);
        set.insert_run(PageRun { first: 8, count: u64::MAX });
        assert_eq!(runs(&set), [(8, 2)]);
        set.remove_run(PageRun { first: 9, count: 1 });
        assert_eq!(runs(&set), [(8, 1)]);
    }
}
