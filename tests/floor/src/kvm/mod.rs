//! KVM with plain ioctls.

mod abi;
mod guest;
pub(crate) mod measure;
pub(crate) mod state;
mod vm;
mod watch;
