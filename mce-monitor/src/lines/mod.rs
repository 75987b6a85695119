//! The kernel's log, a line at a time: what it says of hardware, put together where it takes several lines.

mod assembler;
mod gather;
mod single;
mod stamp;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use assembler::Assembler;
pub(crate) use stamp::stamped;
pub(crate) use words::{Words, hex};
