//! What the kernel tells over netlink: links that go down, and devices in trouble.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, recvfrom, sendto,
    socket_with,
};

use super::{Source, Turn, heard};
use crate::moment::Moment;
use crate::record::{AerError, Channel, Heard, Record, Severity};
use crate::trace::nvme_event;

/// Group 1 of both families: links (`RTMGRP_LINK`), and uevents as the kernel sends them.
const GROUP: u32 = 1;
/// Larger than any message of these groups.
const MESSAGE_BYTES: usize = 64 << 10;
const MESSAGES_A_TURN: usize = 64;

/// linux/rtnetlink.h, linux/if_link.h, linux/if.h.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
/// `NLM_F_REQUEST | NLM_F_DUMP` (linux/netlink.h).
const REQUEST_OF_ALL: u16 = 0x301;
const INTERFACE_NAME: u16 = 3;
const IS_UP: u32 = 1;
const HAS_CARRIER: u32 = 1 << 16;
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;

/// What is listened to.
struct Listener {
    socket: OwnedFd,
    /// Whether the kernel is on the other end, rather than a test.
    is_kernel: bool,
    buffer: Vec<u8>,
}

impl Listener {
    /// A datagram socket at `path` in place of the kernel's, or the kernel's of a family. Without a protocol that is NETLINK_ROUTE,
    /// whose number is 0.
    fn open(path: Option<&Path>, protocol: Option<Protocol>) -> io::Result<Listener> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = if let Some(path) = path {
            let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
            bind(&socket, &SocketAddrUnix::new(path)?)?;
            socket
        } else {
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
            socket
        };
        Ok(Listener { socket, is_kernel: path.is_none(), buffer: vec![0; MESSAGE_BYTES] })
    }

    fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut mio::unix::SourceFd(&self.socket.as_raw_fd()), token, Interest::READABLE)
    }

    /// Reads messages of the kernel's; what other programs send to the group is not read.
    fn read(&mut self, mut message: impl FnMut(&[u8])) -> io::Result<Turn> {
        let mut lost = 0;
        for _ in 0..MESSAGES_A_TURN {
            match recvfrom(&self.socket, &mut self.buffer, RecvFlags::empty()) {
                Ok((bytes, _, sender)) => {
                    let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
                    if !self.is_kernel || sender.is_some_and(|sender| sender.pid() == 0) {
                        message(self.buffer.get(..bytes).unwrap_or_default());
                    }
                }
                Err(Errno::AGAIN) => return Ok(Turn { more: false, lost }),
                Err(Errno::INTR) => {}
                // There was no room for what was sent.
                Err(Errno::NOBUFS) => lost += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Turn { more: true, lost })
    }
}

/// Links.
pub(super) struct Links(Listener);

impl Links {
    pub(super) fn open(path: &Option<PathBuf>) -> io::Result<Links> {
        let links = Links(Listener::open(path.as_deref(), None)?);
        links.ask_for_all()?;
        Ok(links)
    }

    /// Has the kernel tell of every link as it is: what was before this listens, or was lost, is not told again.
    fn ask_for_all(&self) -> io::Result<()> {
        if self.0.is_kernel {
            sendto(&self.0.socket, &link_request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        }
        Ok(())
    }
}

/// `RTM_GETLINK` for all: a header and a `struct ifinfomsg` of zeroes.
fn link_request() -> [u8; HEADER_BYTES + LINK_BYTES] {
    let mut request = [0; HEADER_BYTES + LINK_BYTES];
    let length = u32::try_from(request.len()).unwrap_or(0);
    request[..4].copy_from_slice(&length.to_le_bytes());
    request[4..6].copy_from_slice(&GET_LINK.to_le_bytes());
    request[6..8].copy_from_slice(&REQUEST_OF_ALL.to_le_bytes());
    request
}

impl Source for Links {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.0.register(registry, token)
    }

    fn read(&mut self, now: Moment, into: &mut Vec<Heard>) -> io::Result<Turn> {
        let turn = self
            .0
            .read(|message| into.extend(links(message).into_iter().map(|said| heard(now, Channel::Netlink, said))))?;
        if turn.lost > 0 {
            self.ask_for_all()?;
        }
        Ok(turn)
    }
}

/// Uevents.
pub(super) struct Uevents(Listener);

impl Uevents {
    pub(super) fn open(path: &Option<PathBuf>) -> io::Result<Uevents> {
        Listener::open(path.as_deref(), Some(KOBJECT_UEVENT)).map(Uevents)
    }
}

impl Source for Uevents {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.0.register(registry, token)
    }

    fn read(&mut self, now: Moment, into: &mut Vec<Heard>) -> io::Result<Turn> {
        self.0.read(|message| into.extend(uevent(message).map(|said| heard(now, Channel::Netlink, said))))
    }
}

/// The links that a datagram tells of.
pub(crate) fn links(mut datagram: &[u8]) -> Vec<Record> {
    let mut said = Vec::new();
    while let Some(length) = int(datagram, 0).map(|length| length as usize) {
        let Some(message) = datagram.get(..length).filter(|message| message.len() >= HEADER_BYTES) else { break };
        said.extend(link(message));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    said
}

/// One link. That it was taken down by an operator is nobody's fault, and nothing is said of it.
fn link(message: &[u8]) -> Option<Record> {
    let flags = int(message, HEADER_BYTES + 8)?;
    if short(message, 4)? != NEW_LINK || flags & IS_UP == 0 {
        return None;
    }
    let mut rest = message.get(HEADER_BYTES + LINK_BYTES..)?;
    loop {
        let length = usize::from(short(rest, 0)?);
        let attribute = rest.get(4..length)?;
        if short(rest, 2)? == INTERFACE_NAME {
            let end = attribute.iter().position(|byte| *byte == 0).unwrap_or(attribute.len());
            let interface = String::from_utf8_lossy(&attribute[..end]).into_owned();
            return Some(Record::Link { interface, up: flags & HAS_CARRIER != 0 });
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}

/// What a uevent says of a device in trouble: a failed recovery of PCI (`pci_uevent_ers` in drivers/pci/pci-driver.c), or an event
/// that an NVMe controller has sent by itself.
pub(crate) fn uevent(message: &[u8]) -> Option<Record> {
    let text = String::from_utf8_lossy(message);
    let value = |key: &str| text.split('\0').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    match value("SUBSYSTEM")? {
        "pci" if value("ERROR_EVENT")? == "FAILED_RECOVERY" => Some(Record::Aer(AerError {
            device: value("PCI_SLOT_NAME")?.to_owned(),
            severity: Severity::Fatal,
            status: 0,
            count: 1,
        })),
        "nvme" => {
            let event = u32::from_str_radix(value("NVME_AEN")?.trim_start_matches("0x"), 16).ok()?;
            let device = value("DEVNAME").or_else(|| value("DEVPATH")?.rsplit('/').next())?;
            nvme_event(device, event)
        }
        _ => None,
    }
}
