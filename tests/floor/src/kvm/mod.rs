//! KVM with plain ioctls.

mod abi;
mod guest;
pub(crate) mod measure;
mod state;
mod vm;
