//! The built bare-metal guest as an ELF image in memory.

/// The guest `ledger` of `kemari-guest`: an ELF image with a PVH entry note, ready to be booted.
pub static ELF: &[u8] = include_bytes!(env!("KEMARI_GUEST_ELF"));
