//! The bare-metal guest that tests and the demo protect: a ledger service over TCP.
//!
//! The library part is what guest and clients share, [`wire`]. The guest itself is the binary `ledger`, built with the
//! feature `bare-metal` and the profile `guest`; `kemari-guest-image` does that and hands out the ELF image.
#![no_std]

pub mod wire;
