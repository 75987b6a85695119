//! What is asked of a network card and said about it.

use std::io;

/// How to make a [`Net`](super::Net).
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Name of a persistent tap that exists.
    pub tap: String,
    /// The guest's hardware address.
    pub mac: [u8; 6],
}

/// Counters of a [`Net`](super::Net), since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Frames taken from the guest and not yet on the tap.
    pub held_frames: u64,
    /// Frames written to the tap.
    pub sent_frames: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Frames that the tap refused or that were malformed.
    pub send_errors: u64,
    /// Frames given to the guest.
    pub received_frames: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Frames that did not fit the guest's buffers.
    pub receive_drops: u64,
}

/// Why a [`Net`](super::Net) cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Not a name of a network interface.
    #[error("{tap:?} is not a name of a network interface (1 to 15 printable characters)")]
    BadName {
        /// What was given.
        tap: String,
    },
    /// There is no such tap.
    #[error("tap {tap} does not exist; make it with: ip tuntap add dev {tap} mode tap && ip link set {tap} up")]
    NoSuchTap {
        /// Its name.
        tap: String,
    },
    /// Something else has that name.
    #[error("{tap} is no tap with one queue; make one of another name with: ip tuntap add dev NAME mode tap")]
    NotATap {
        /// Its name.
        tap: String,
    },
    /// Another process has it.
    #[error("tap {tap} is in use by another process")]
    Busy {
        /// Its name.
        tap: String,
    },
    /// The tap driver cannot be opened.
    #[error("/dev/net/tun cannot be opened; the tun module and CAP_NET_ADMIN are needed")]
    Open {
        /// What the kernel said.
        source: io::Error,
    },
    /// The tap cannot be used.
    #[error("tap {tap} cannot be set up")]
    SetUp {
        /// Its name.
        tap: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Out of file descriptors.
    #[error("no eventfd to be had")]
    EventFd {
        /// What the kernel said.
        source: io::Error,
    },
}
