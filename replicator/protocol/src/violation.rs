//! Ways to break the protocol. Each ends the link, and its text goes to the peer and into both logs.

use kemari_core::{Generation, Image, PageRun};

/// What the peer did that it must not do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Violation {
    #[error("{message} came while {doing}")]
    Unexpected { message: &'static str, doing: &'static str },
    #[error("pages {} to {} are outside the guest's {pages} pages", run.first, run.first.saturating_add(run.count - 1))]
    PageRange { run: PageRun, pages: u64 },
    #[error("page {page} came twice or out of order within a checkpoint")]
    PageOrder { page: u64 },
    #[error("more than the {announced} announced {what} came for {image}")]
    Excess { what: &'static str, announced: u64, image: Image },
    #[error("{image} was announced with {pages} pages and {state_bytes} bytes of state, which is over the limit")]
    Oversized { image: Image, pages: u64, state_bytes: u64 },
    #[error("{image} is damaged: its checksum is {found:08x}, not {:08x}", image.checksum)]
    Checksum { image: Image, found: u32 },
    #[error("{image} lies over {}, but {} is held", show(*onto), show(*held))]
    Base { image: Image, onto: Option<Image>, held: Option<Image> },
    #[error("{image} came over {onto}, which is not before it")]
    Order { image: Image, onto: Image },
    #[error("{image} came, but the link was opened for generation {generation}")]
    Generation { image: Image, generation: Generation },
    #[error("{acknowledged} was acknowledged, but {} is in flight", show(*expected))]
    Acknowledged { acknowledged: Image, expected: Option<Image> },
    #[error("{image} was called final, but {} is held", show(*held))]
    Final { image: Image, held: Option<Image> },
    #[error("version {version} was selected, which was not offered")]
    Version { version: u16 },
}

fn show(image: Option<Image>) -> String {
    image.map_or_else(|| "nothing".to_owned(), |image| image.to_string())
}
