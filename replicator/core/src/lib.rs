//! The words every room shares, and the one mechanism the whole project rests on.
//!
//! * [`Epoch`], [`Generation`], [`Image`]: which stretch of which history is meant;
//! * [`PageSet`]: which pages of guest memory are meant;
//! * [`Gate`]: holds what leaves the guest until a [`Committed`] checkpoint or [`Consent`] lets it go.
//!
//! Nothing here knows a socket, a clock, KVM or a device.

mod epoch;
mod frequency;
mod gate;
mod pages;
pub mod sabotage;

pub use epoch::{Epoch, Generation, Image, NotAGeneration};
pub use frequency::same_frequency;
pub use gate::{Acknowledgement, Committed, Consent, ConsentReason, Gate, GateError, Released, Sealed, Weigh};
pub use pages::{PAGE_SIZE, PageRun, PageSet};
