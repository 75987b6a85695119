//! The replication protocol as sans-IO state machines: no sockets, no KVM, no clock, no threads.
