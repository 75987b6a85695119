//! The bare-metal guest that tests and the demo protect: a ledger service over TCP.
//!
//! The library part is what can be used and tested on the host: [`wire`], shared by the guest and its clients, and
//! [`cmdline`]. The guest itself is the binary `ledger`, built with the feature `bare-metal` and the profile `guest`;
//! `kemari-guest-image` does that and hands out the ELF image.
#![no_std]

pub mod cmdline;
pub mod wire;
