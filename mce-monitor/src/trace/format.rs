//! An event's `format` file, and a record read by it.

use std::collections::BTreeMap;

/// Why a format is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Something is not there.
    #[error("no {0} in the format")]
    Missing(&'static str),
    /// A field cannot be read.
    #[error("not a field: {0}")]
    Field(String),
}

/// Where a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    offset: usize,
    size: usize,
    signed: bool,
    shape: Shape,
}

/// How its bytes are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A number, if it has the size of one.
    Plain,
    /// Offset from the record's beginning and length of the bytes meant, 16 bits each.
    Located,
    /// The same with an offset from the field's end.
    RelativelyLocated,
}

/// The fields of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// The event's name.
    pub name: String,
    /// Its number on this boot, the first field of each of its records.
    pub id: u16,
    fields: BTreeMap<String, Field>,
}

impl Format {
    /// Reads the file.
    ///
    /// # Errors
    /// It has no name or number, or a field that makes no sense.
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        let value = |key| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let name = value("name:").ok_or(FormatError::Missing("name"))?.to_owned();
        let id = value("ID:").and_then(|id| id.parse().ok()).ok_or(FormatError::Missing("ID"))?;
        let mut fields = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| line.starts_with("field")) {
            let (name, field) = field(line).ok_or_else(|| FormatError::Field(line.to_owned()))?;
            fields.insert(name.to_owned(), field);
        }
        Ok(Format { name, id, fields })
    }

    /// A record of this event.
    #[must_use]
    pub fn fields<'a>(&'a self, bytes: &'a [u8]) -> Fields<'a> {
        Fields { format: self, bytes }
    }
}

/// `field:__data_loc char[] msg; offset:12; size:4; signed:1;`
fn field(line: &str) -> Option<(&str, Field)> {
    let mut parts = line.split(';').map(str::trim);
    let declaration = parts.next()?.split_once(':')?.1;
    let (mut offset, mut size, mut signed) = (None, None, false);
    for part in parts {
        match part.split_once(':') {
            Some(("offset", value)) => offset = value.parse().ok(),
            Some(("size", value)) => size = value.parse().ok(),
            Some(("signed", value)) => signed = value == "1",
            _ => {}
        }
    }
    let shape = match declaration {
        located if located.starts_with("__data_loc") => Shape::Located,
        relative if relative.starts_with("__rel_loc") => Shape::RelativelyLocated,
        _ => Shape::Plain,
    };
    let name = declaration.split_whitespace().next_back()?.split('[').next()?;
    Some((name, Field { offset: offset?, size: size?, signed, shape }))
}

/// A record's fields by name. What is not there, or beyond the record's end, is none.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    format: &'a Format,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The event's name.
    #[must_use]
    pub fn event(&self) -> &'a str {
        &self.format.name
    }

    /// A number, whatever its size; a signed one is extended.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        let (field, bytes) = self.plain(name)?;
        let mut value = [0; 8];
        value.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let value = u64::from_le_bytes(value);
        let unused_bits = 64 - 8 * u32::try_from(bytes.len()).ok()?;
        let extended = (value << unused_bits).cast_signed() >> unused_bits;
        Some(if field.signed { extended.cast_unsigned() } else { value })
    }

    /// A number that may be negative.
    #[must_use]
    pub fn signed(&self, name: &str) -> Option<i64> {
        self.number(name).map(u64::cast_signed)
    }

    /// A number that fits 32 bits.
    #[must_use]
    pub fn small(&self, name: &str) -> Option<u32> {
        self.number(name).and_then(|value| u32::try_from(value).ok())
    }

    /// A text, up to its terminating zero.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let bytes = self.block(name)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// The bytes that a field holds, or points at.
    #[must_use]
    pub fn block(&self, name: &str) -> Option<&'a [u8]> {
        let (field, bytes) = self.plain(name)?;
        if field.shape == Shape::Plain {
            return Some(bytes);
        }
        let pointer = u32::from_le_bytes(bytes.try_into().ok()?) as usize;
        let (offset, length) = (pointer & 0xffff, pointer >> 16);
        let base = if field.shape == Shape::RelativelyLocated { field.offset.checked_add(field.size)? } else { 0 };
        let begin = base.checked_add(offset)?;
        self.bytes.get(begin..begin.checked_add(length)?)
    }

    fn plain(&self, name: &str) -> Option<(Field, &'a [u8])> {
        let field = *self.format.fields.get(name)?;
        let bytes = self.bytes.get(field.offset..field.offset.checked_add(field.size)?)?;
        (!bytes.is_empty()).then_some((field, bytes))
    }
}
