//! The built bare-metal guest as an ELF image in memory.
