//! What a hostile stream can reach, each as one function of bytes: for the fuzzer (`fuzz/`), and for the tests that run the same with
//! what they choose.

use crate::classify::{Host, classify};
use crate::health::{Health, Thresholds};
use crate::moment::Moment;
use crate::record::{Channel, Heard, Record};
use crate::replay::{decide, from_text};
use crate::sources::{links, mcelog_record, uevent};
use crate::trace::{Format, Page, PageLayout, record};

/// Parts that are told apart, so that what must be bounded is bounded soon.
const PARTS: usize = 16;

/// A kind of stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// A format file, a zero, and a page of a ring buffer.
    Trace,
    /// Lines of a log, or of a printed trace.
    Lines,
    /// A datagram of rtnetlink, or a uevent.
    Netlink,
    /// A record of `/dev/mcelog`.
    Mcelog,
}

impl Stream {
    /// All of them.
    pub const ALL: [Stream; 4] = [Stream::Trace, Stream::Lines, Stream::Netlink, Stream::Mcelog];

    /// Reads `bytes` as such a stream and decides about it. Returns how many records it had.
    #[must_use]
    pub fn feed(self, bytes: &[u8]) -> usize {
        let heard = match self {
            Stream::Trace => trace(bytes),
            Stream::Lines => from_text(&String::from_utf8_lossy(bytes)),
            Stream::Netlink => heard(Channel::Netlink, links(bytes).into_iter().chain(uevent(bytes))),
            Stream::Mcelog => heard(Channel::Mcelog, mcelog_record(bytes).map(Record::MachineCheck)),
        };
        // As the daemon judges it, which knows when the host booted.
        for heard in &heard {
            let _ = classify(heard, &Host { booted_unix_s: Some(1) });
        }
        let records = heard.len();
        let replay = decide(heard, Health::new(Thresholds::default(), PARTS));
        // One more of each kind, for all that are not told apart.
        assert!(replay.parts.len() <= PARTS + 6, "the parts must be bounded");
        records
    }
}

fn heard(channel: Channel, records: impl IntoIterator<Item = Record>) -> Vec<Heard> {
    records.into_iter().map(|record| Heard { at: Moment::default(), channel, record }).collect()
}

fn trace(bytes: &[u8]) -> Vec<Heard> {
    let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (text, page) = bytes.split_at(at);
    let Ok(format) = Format::parse(&String::from_utf8_lossy(text)) else { return Vec::new() };
    let page = Page::new(page.get(1..).unwrap_or_default(), PageLayout::default());
    heard(Channel::Trace, page.filter_map(|event| record(&format.fields(event.bytes))))
}
