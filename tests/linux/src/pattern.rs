//! Bytes whose order anybody can check, and that no lost, doubled or swapped piece leaves in order.

/// Goes on from wherever it is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pattern {
    at: u64,
}

impl Pattern {
    /// The byte at a place: of the number of its word, mixed (Knuth's multiplicative hash).
    fn byte(at: u64) -> u8 {
        ((at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at % 8 * 8)) as u8
    }

    /// The next bytes.
    pub(crate) fn fill(&mut self, into: &mut [u8]) {
        for byte in into {
            *byte = Pattern::byte(self.at);
            self.at += 1;
        }
    }

    /// Whether these are the next bytes; where not, if not.
    pub(crate) fn check(&mut self, bytes: &[u8]) -> Result<(), u64> {
        for byte in bytes {
            if *byte != Pattern::byte(self.at) {
                return Err(self.at);
            }
            self.at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_found_in_order_only() {
        let mut bytes = vec![0; 4096];
        Pattern::default().fill(&mut bytes);
        assert_eq!(Pattern::default().check(&bytes), Ok(()));
        bytes.swap(100, 2000);
        assert_eq!(Pattern::default().check(&bytes), Err(100));
        let mut later = Pattern { at: 8 };
        assert!(later.check(&bytes[..8]).is_err());
    }
}
