//! The bare-metal guest that tests and the demo protect: a ledger service over TCP.
