//! The record: which history of a guest is current, and which nodes hold its data.

use std::fmt;
use std::str::FromStr;

use kemari_core::Generation;

/// Longest name of a node or a guest.
const NAME_BYTES: usize = 255;

/// Why a text is no record, or no part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not three fields with one space between them.
    #[error("{0:?} is not a record: not GENERATION ID NODE[,NODE]")]
    Fields(String),
    /// The generation's number or id.
    #[error("{0:?} is not a generation: not a number, and an id of 1 to 16 hexadecimal digits")]
    Generation(String),
    /// A name that cannot stand in a record.
    #[error("{0:?} is not a name that a record can hold: letters, digits, '-', '_', '.' and ':'")]
    Name(String),
    /// A node named twice, or more than two.
    #[error("{0:?} does not name one node, or two different ones")]
    Nodes(String),
}

/// `GENERATION ID NODE[,NODE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The current history.
    pub generation: Generation,
    /// The node that was granted it.
    pub primary: String,
    /// The node that holds its data, too, and may be promoted.
    pub standby: Option<String>,
}

impl Record {
    /// The record in which `primary` is the only one to hold the data.
    #[must_use]
    pub fn alone(generation: Generation, primary: &str) -> Record {
        Record { generation, primary: primary.to_owned(), standby: None }
    }

    /// The record in which `standby` may be promoted.
    #[must_use]
    pub fn protected(generation: Generation, primary: &str, standby: &str) -> Record {
        Record { generation, primary: primary.to_owned(), standby: Some(standby.to_owned()) }
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
        match &self.standby {
            Some(standby) => write!(f, ",{standby}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Record {
    type Err = RecordError;

    fn from_str(text: &str) -> Result<Record, RecordError> {
        let fields: Vec<&str> = text.split(' ').collect();
        let [number, id, nodes] = fields[..] else { return Err(RecordError::Fields(text.to_owned())) };
        let generation = generation_of(number, id)?;
        let (primary, standby) = match nodes.split_once(',') {
            Some((primary, standby)) => (primary, Some(standby)),
            None => (nodes, None),
        };
        if standby == Some(primary) || standby.is_some_and(|standby| standby.contains(',')) {
            return Err(RecordError::Nodes(nodes.to_owned()));
        }
        let standby = standby.map(name).transpose()?;
        Ok(Record { generation, primary: name(primary)?, standby })
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
    if !number.bytes().all(|byte| byte.is_ascii_digit()) || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let number = number.parse().map_err(|_| wrong())?;
    let id = u64::from_str_radix(id, 16).map_err(|_| wrong())?;
    Ok(Generation { number, id })
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
            (Record::alone(G, "alpha"), "7 00000000000009f3 alpha"),
            (Record::protected(G, "alpha", "beta"), "7 00000000000009f3 alpha,beta"),
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
    fn the_other_node_is_the_one_that_is_not_asking() {
        let both = Record::protected(G, "alpha", "beta");
        assert_eq!((both.other_than("alpha"), both.other_than("beta")), (Some("beta"), Some("alpha")));
        assert_eq!(Record::alone(G, "alpha").other_than("alpha"), None);
        assert!(both.names("beta") && !both.names("gamma"));
    }
}
