//! The record: which history of a guest is current, and which nodes hold its data.

use std::fmt;
use std::str::FromStr;

use kemari_core::Generation;

/// Longest name of a node or a guest.
const NAME_BYTES: usize = 255;

/// Why a text is no record, or no part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not four fields, or three, with one space between them.
    #[error("{0:?} is not a record: not GENERATION ID NODE[,NODE] CHANGES")]
    Fields(String),
    /// The generation's number or id.
    #[error("{0:?} is not a generation: not a number, and an id of 1 to 16 hexadecimal digits")]
    Generation(String),
    /// How often it was changed.
    #[error("{0:?} is not how often a record was changed")]
    Changes(String),
    /// A name that cannot stand in a record.
    #[error("{0:?} is not a name that a record can hold: letters, digits, '-', '_', '.' and ':'")]
    Name(String),
    /// A node named twice, or more than two.
    #[error("{0:?} does not name one node, or two different ones")]
    Nodes(String),
}

/// `GENERATION ID NODE[,NODE] CHANGES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The current history.
    pub generation: Generation,
    /// The node that was granted it.
    pub primary: String,
    /// The node that holds its data, too, and may be promoted.
    pub standby: Option<String>,
    /// How often the record was changed. What it says may recur, but no record does: a swap that was on its way for too long
    /// finds another one than it was meant for.
    pub changes: u64,
}

impl Record {
    /// The record in which `primary` is the only one to hold the data.
    #[must_use]
    pub fn alone(generation: Generation, primary: &str) -> Record {
        Record { generation, primary: primary.to_owned(), standby: None, changes: 0 }
    }

    /// The record in which `standby` may be promoted.
    #[must_use]
    pub fn protected(generation: Generation, primary: &str, standby: &str) -> Record {
        Record { generation, primary: primary.to_owned(), standby: Some(standby.to_owned()), changes: 0 }
    }

    /// The same as the one that takes the place of `previous`.
    #[must_use]
    pub fn after(self, previous: &Record) -> Record {
        Record { changes: previous.changes.wrapping_add(1), ..self }
    }

    /// Whether the two differ at most in how often they were changed.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Record) -> bool {
        (self.generation, &self.primary, &self.standby) == (other.generation, &other.primary, &other.standby)
    }

    /// Whether it says that `node` holds the data.
    #[must_use]
    pub fn names(&self, node: &str) -> bool {
        self.primary == node || self.standby.as_deref() == Some(node)
    }

    /// The node it names besides `node`.
    #[must_use]
    pub fn other_than(&self, node: &str) -> Option<&str> {
        [Some(self.primary.as_str()), self.standby.as_deref()].into_iter().flatten().find(|named| *named != node)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Generation { number, id } = self.generation;
        write!(f, "{number} {id:016x} {}", self.primary)?;
        if let Some(standby) = &self.standby {
            write!(f, ",{standby}")?;
        }
        write!(f, " {}", self.changes)
    }
}

impl FromStr for Record {
    type Err = RecordError;

    fn from_str(text: &str) -> Result<Record, RecordError> {
        let fields: Vec<&str> = text.split(' ').collect();
        let (number, id, nodes, changes) = match fields[..] {
            [number, id, nodes, changes] => (number, id, nodes, changes),
            // As an operator may have written it.
            [number, id, nodes] => (number, id, nodes, "0"),
            _ => return Err(RecordError::Fields(text.to_owned())),
        };
        let generation = generation_of(number, id)?;
        let (primary, standby) = match nodes.split_once(',') {
            Some((primary, standby)) => (primary, Some(standby)),
            None => (nodes, None),
        };
        if standby == Some(primary) || standby.is_some_and(|standby| standby.contains(',')) {
            return Err(RecordError::Nodes(nodes.to_owned()));
        }
        let standby = standby.map(name).transpose()?;
        let changes = unsigned(changes).ok_or_else(|| RecordError::Changes(changes.to_owned()))?;
        Ok(Record { generation, primary: name(primary)?, standby, changes })
    }
}

/// Reads a generation as it stands on command lines: `NUMBER-ID`.
pub(crate) fn parse_generation(text: &str) -> Result<Generation, RecordError> {
    let (number, id) = text.split_once('-').ok_or_else(|| RecordError::Generation(text.to_owned()))?;
    generation_of(number, id)
}

fn generation_of(number: &str, id: &str) -> Result<Generation, RecordError> {
    let wrong = || RecordError::Generation(format!("{number}-{id}"));
    // Signs are numbers to the standard library.
    if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let number = unsigned(number).ok_or_else(wrong)?;
    let id = u64::from_str_radix(id, 16).map_err(|_| wrong())?;
    Ok(Generation { number, id })
}

fn unsigned(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Takes `text` as a name if a record, an XPath and an attribute's name can hold it without quoting.
pub(crate) fn name(text: &str) -> Result<String, RecordError> {
    let good = (1..=NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    if good { Ok(text.to_owned()) } else { Err(RecordError::Name(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: Generation = Generation { number: 7, id: 0x9f3 };

    #[test]
    fn what_is_written_is_read_back() {
        for (record, text) in [
            (Record::alone(G, "alpha"), "7 00000000000009f3 alpha 0"),
            (Record::protected(G, "alpha", "beta"), "7 00000000000009f3 alpha,beta 0"),
            (Record { changes: 12, ..Record::alone(G, "alpha") }, "7 00000000000009f3 alpha 12"),
        ] {
            assert_eq!(record.to_string(), text);
            assert_eq!(text.parse(), Ok(record));
        }
        assert_eq!("7 9f3 alpha".parse(), Ok(Record::alone(G, "alpha")));
        assert_eq!(parse_generation(&G.to_string()), Ok(G));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for text in [
            "",
            "7",
            "7 9f3",
            "7 9f3 ",
            "7  9f3 alpha",
            " 7 9f3 alpha",
            "7 9f3 alpha ",
            "7 9f3 alpha beta",
            "7 9f3 alpha -1",
            "7 9f3 alpha 1 2",
            "7 9f3 alpha 18446744073709551616",
            "7 9f3 alpha,",
            "7 9f3 ,beta",
            "7 9f3 alpha,alpha",
            "7 9f3 alpha,beta,gamma",
            "-7 9f3 alpha",
            "+7 9f3 alpha",
            "7 +9f3 alpha",
            "7 0x9f3 alpha",
            " 9f3 alpha",
            "18446744073709551616 9f3 alpha",
            "7 10000000000000000 alpha",
            "7 9f3 al'pha",
            "7 9f3 al]pha",
            "7 9f3 alpha\n",
        ] {
            assert!(text.parse::<Record>().is_err(), "{text:?}");
        }
        for text in ["", "7", "7-", "-9f3", "7-9f3-1", "7 9f3"] {
            assert!(parse_generation(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn no_record_recurs_though_what_it_says_does() {
        let first = Record::alone(G, "alpha");
        let between = Record::protected(G, "alpha", "beta").after(&first);
        let again = Record::alone(G, "alpha").after(&between);
        assert!(again.says_the_same_as(&first) && !between.says_the_same_as(&first));
        assert_ne!(again.to_string(), first.to_string());
    }

    #[test]
    fn the_other_node_is_the_one_that_is_not_asking() {
        let both = Record::protected(G, "alpha", "beta");
        assert_eq!((both.other_than("alpha"), both.other_than("beta")), (Some("beta"), Some("alpha")));
        assert_eq!(Record::alone(G, "alpha").other_than("alpha"), None);
        assert!(both.names("beta") && !both.names("gamma"));
    }
}
