//! Values in a line of text, by what is before them.

/// A line of which parts are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a>(pub(crate) &'a str);

impl<'a> Words<'a> {
    /// What follows the first `key`.
    pub(crate) fn after(self, key: &str) -> Option<&'a str> {
        self.0.find(key).map(|at| &self.0[at + key.len()..])
    }

    /// The word that follows `key`, up to a blank or punctuation that no word has.
    pub(crate) fn word(self, key: &str) -> Option<&'a str> {
        let rest = self.after(key)?.trim_start();
        let end = rest.find(|letter: char| letter.is_whitespace() || ",;()[]".contains(letter)).unwrap_or(rest.len());
        Some(&rest[..end]).filter(|word| !word.is_empty())
    }

    /// The hexadecimal number that follows `key`, with or without `0x`.
    pub(crate) fn hex(self, key: &str) -> Option<u64> {
        hex(self.after(key)?.trim_start())
    }

    /// The decimal number that follows `key`.
    pub(crate) fn decimal(self, key: &str) -> Option<u64> {
        let rest = self.after(key)?.trim_start();
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    }

    /// The same if it fits 32 bits.
    pub(crate) fn small(self, key: &str) -> Option<u32> {
        self.decimal(key).and_then(|value| u32::try_from(value).ok())
    }
}

/// The hexadecimal number at the beginning of `text`.
pub(crate) fn hex(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let end = digits.find(|letter: char| !letter.is_ascii_hexdigit()).unwrap_or(digits.len());
    u64::from_str_radix(&digits[..end], 16).ok()
}
