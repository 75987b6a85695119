//! How saved state is put together: sections that name their kind, instance and version.
//!
//! `magic u32 | { kind length u8 | kind | instance u8 | version u16 | length u32 | bytes }*`, little-endian. Whoever loads must
//! know and use every section, and find every one it needs.

use crate::LoadError;
use crate::plain::Plain;

/// Version of the whole: part of the layout that both hosts must agree on. Sections have versions of their own.
pub(crate) const FORMAT: u32 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"Kem1");

/// Begins a saved state.
pub(crate) fn begin(into: &mut Vec<u8>) {
    into.extend(MAGIC.to_le_bytes());
}

/// Appends a section, whose bytes `fill` appends.
pub(crate) fn append(into: &mut Vec<u8>, kind: &str, instance: u8, version: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    debug_assert!(kind.len() <= usize::from(u8::MAX));
    into.push(kind.len() as u8);
    into.extend(kind.as_bytes());
    into.push(instance);
    into.extend(version.to_le_bytes());
    let length_at = into.len();
    into.extend([0; size_of::<u32>()]);
    let begin = into.len();
    fill(into);
    let length = (into.len() - begin) as u32;
    into[length_at..begin].copy_from_slice(&length.to_le_bytes());
}

/// A section of a saved state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section<'a> {
    kind: &'a str,
    instance: u8,
    /// Of `bytes`.
    pub(crate) version: u16,
    /// What the section holds.
    pub(crate) bytes: &'a [u8],
}

/// The sections of a saved state that were not taken yet.
pub(crate) struct Sections<'a>(Vec<Section<'a>>);

impl<'a> Sections<'a> {
    /// Takes a saved state apart.
    pub(crate) fn parse(state: &'a [u8]) -> Result<Sections<'a>, LoadError> {
        let mut reader = Reader(state);
        if reader.take::<u32>("magic")? != MAGIC {
            return Err(LoadError::Malformed("it does not begin as one".to_owned()));
        }
        let mut sections: Vec<Section<'_>> = Vec::new();
        while !reader.0.is_empty() {
            let kind_length = reader.take::<u8>("kind")?;
            let kind = std::str::from_utf8(reader.bytes(kind_length.into(), "kind")?)
                .map_err(|_| LoadError::Malformed("a kind is not text".to_owned()))?;
            let instance = reader.take::<u8>("instance")?;
            let version = u16::from_le_bytes([reader.take("version")?, reader.take("version")?]);
            let length = reader.take::<u32>("length")?;
            let bytes = reader.bytes(length as usize, kind)?;
            if sections.iter().any(|section| section.kind == kind && section.instance == instance) {
                return Err(LoadError::Malformed(format!("it has {kind}{instance} twice")));
            }
            sections.push(Section { kind, instance, version, bytes });
        }
        Ok(Sections(sections))
    }

    /// Takes the section of this kind and instance.
    pub(crate) fn take(&mut self, kind: &str, instance: u8) -> Result<Section<'a>, LoadError> {
        match self.0.iter().position(|section| section.kind == kind && section.instance == instance) {
            Some(index) => Ok(self.0.swap_remove(index)),
            None => Err(LoadError::Missing { section: format!("{kind}{instance}") }),
        }
    }

    /// As [`take`](Sections::take), of the only version there is.
    pub(crate) fn take_version(&mut self, kind: &str, instance: u8, known: u16) -> Result<Reader<'a>, LoadError> {
        let Section { version, bytes, .. } = self.take(kind, instance)?;
        if version != known {
            return Err(LoadError::Version { section: format!("{kind}{instance}"), version, known });
        }
        Ok(Reader(bytes))
    }

    /// Checks that every section was taken.
    pub(crate) fn finish(self) -> Result<(), LoadError> {
        match self.0.first() {
            Some(section) => Err(LoadError::Unknown { section: format!("{}{}", section.kind, section.instance) }),
            None => Ok(()),
        }
    }
}

/// Takes values off the front of some bytes.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next value; `what` names it if it is not there.
    pub(crate) fn take<T: Plain>(&mut self, what: &str) -> Result<T, LoadError> {
        let bytes = self.bytes(size_of::<T>(), what)?;
        T::from_bytes(bytes).ok_or_else(|| LoadError::Malformed(format!("it ends within {what}")))
    }

    /// The next values, led by their number, of which there may be at most `max`.
    pub(crate) fn take_all<T: Plain>(&mut self, max: usize, what: &str) -> Result<Vec<T>, LoadError> {
        let count = self.take::<u32>(what)? as usize;
        if count > max {
            return Err(LoadError::Malformed(format!("{count} are too many in {what}")));
        }
        let bytes = self.bytes(count * size_of::<T>(), what)?;
        Ok(bytes.chunks_exact(size_of::<T>()).filter_map(T::from_bytes).collect())
    }

    /// Checks that nothing is left.
    pub(crate) fn finish(self, what: &str) -> Result<(), LoadError> {
        if self.0.is_empty() { Ok(()) } else { Err(LoadError::Malformed(format!("something follows {what}"))) }
    }

    fn bytes(&mut self, count: usize, what: &str) -> Result<&'a [u8], LoadError> {
        let (bytes, rest) =
            self.0.split_at_checked(count).ok_or_else(|| LoadError::Malformed(format!("it ends within {what}")))?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// Appends values, led by their number, as [`Reader::take_all`] wants them.
pub(crate) fn append_all<T: Plain>(values: &[T], into: &mut Vec<u8>) {
    into.extend((values.len() as u32).bytes());
    for value in values {
        into.extend(value.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut state = Vec::new();
        begin(&mut state);
        append(&mut state, "vcpu", 0, 1, |into| into.extend(7u32.bytes()));
        append(&mut state, "vcpu", 1, 1, |into| append_all(&[1u64, 2], into));
        state
    }

    #[test]
    fn what_goes_in_comes_out() {
        let state = sample();
        let mut sections = Sections::parse(&state).expect("well-formed");
        let mut second = sections.take_version("vcpu", 1, 1).expect("there");
        assert_eq!(second.take_all::<u64>(2, "numbers").expect("two"), [1, 2]);
        second.finish("vcpu1").expect("nothing more");
        assert!(matches!(sections.take_version("vcpu", 0, 2), Err(LoadError::Version { version: 1, known: 2, .. })));
        assert!(matches!(sections.take("vcpu", 0), Err(LoadError::Missing { .. })));
        sections.finish().expect("all taken");
    }

    #[test]
    fn every_section_must_be_used() {
        let state = sample();
        let mut sections = Sections::parse(&state).expect("well-formed");
        sections.take("vcpu", 0).expect("there");
        assert!(matches!(sections.finish(), Err(LoadError::Unknown { section }) if section == "vcpu1"));
    }

    #[test]
    fn damage_is_refused_wherever_it_is() {
        let state = sample();
        for length in 1..state.len() {
            if let Ok(mut sections) = Sections::parse(&state[..length]) {
                assert!(sections.take("vcpu", 1).is_err(), "cut at {length}");
            }
        }
        let twice = [&state[..], &state[4..]].concat();
        assert!(matches!(Sections::parse(&twice), Err(LoadError::Malformed(_))));
        let mut reader = Reader(&[255, 255, 255, 255]);
        assert!(reader.take_all::<u64>(1000, "numbers").is_err());
    }
}
