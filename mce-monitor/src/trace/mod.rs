//! What tracepoints say: pages of a ring buffer, records by their event's `format`, and the printed lines of a captured stream.
//!
//! Everything here is given by a file and trusted no further than its bytes go.

mod decode;
mod events;
mod format;
mod page;
mod text;

pub use format::{Fields, Format, FormatError};
pub use page::{Event, Page, PageLayout};

pub(crate) use decode::nvme_event;
pub(crate) use events::{TRACEPOINTS, Tracepoint, record};
pub(crate) use text::parse_line;
