//! The host's side of a network card: a persistent tap.

use std::ffi::c_uint;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::HEADER_BYTES;
use super::door::NetError;

const TUN: &str = "/dev/net/tun";

/// A tap, one frame per read and write, each led by a virtio-net header.
///
/// It is opened long before the guest runs here, so that promotion need not wait for it. Until then a socket filter drops what the
/// host sends to it, so nothing stale waits in its queue and a bridge can take it for nothing but a silent port.
#[derive(Debug)]
pub(super) struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Opens a tap that exists.
    pub(super) fn open(name: &str) -> Result<Tap, NetError> {
        let request = interface_request(name)?;
        // TUNSETIFF would make a tap that is gone with this process: a bridge would not have it.
        // SAFETY: `ifr_name` is a string that ends with a zero, and the kernel only reads it.
        if unsafe { libc::if_nametoindex(request.ifr_name.as_ptr()) } == 0 {
            return Err(NetError::NoSuchTap { tap: name.to_owned() });
        }
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(TUN)
            .map_err(|source| NetError::Open { source })?;
        let failed = |source| NetError::SetUp { tap: name.to_owned(), source };
        // SAFETY: TUNSETIFF reads and writes an `ifreq`, which `request` is, and keeps no pointer to it.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) }).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EBUSY) => NetError::Busy { tap: name.to_owned() },
                Some(libc::EINVAL) => NetError::NotATap { tap: name.to_owned() },
                _ => failed(source),
            }
        })?;
        let header_bytes = HEADER_BYTES as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header_bytes) })
            .map_err(failed)?;
        let tap = Tap { file, name: name.to_owned() };
        // It may be left with those of the process before.
        tap.set_offloads(0).map_err(failed)?;
        tap.hear(Hearing::Nothing).map_err(failed)?;
        Ok(tap)
    }

    /// What stands in for a tap in tests: anything that keeps the bounds of messages.
    #[cfg(test)]
    pub(super) fn from_file(file: File) -> Tap {
        Tap { file, name: "test".to_owned() }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the host may leave to be done with frames that are read here: TUN_F_CSUM and its like.
    pub(super) fn set_offloads(&self, flags: c_uint) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    }

    /// What the tap queues from now on of what the host sends to it. `tun_net_xmit` (drivers/net/tun.c) asks the filter.
    pub(super) fn hear(&self, what: Hearing) -> io::Result<()> {
        let mut filter = what.filter();
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        let request = if filter.is_empty() { libc::TUNDETACHFILTER } else { libc::TUNATTACHFILTER };
        // SAFETY: both take a `sock_fprog`; the kernel copies the program, which lives until the end of this function.
        check(unsafe { libc::ioctl(self.fd(), request, &raw const program) })
    }

    /// Forgets what has arrived. Ends only if the tap hears nothing.
    pub(super) fn drain(&self) {
        let mut start_of_frame = [0; HEADER_BYTES];
        // A read takes the whole frame away, however little of it fits.
        while matches!(self.read(&mut start_of_frame), Ok(bytes) if bytes > 0) {}
    }

    /// Reads one frame with its header. `WouldBlock` if there is none.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(into)
    }

    /// Writes one frame with its header. `WouldBlock` if there is no room.
    pub(super) fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(|_| ())
    }
}

/// What a tap queues.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hearing {
    Nothing,
    /// Frames to this address alone.
    Only([u8; 6]),
    Everything,
}

impl Hearing {
    /// As classic BPF, which accepts a frame by returning how many bytes of it. No filter accepts everything.
    fn filter(self) -> Vec<libc::sock_filter> {
        let line = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let returns = |bytes| line(libc::BPF_RET | libc::BPF_K, 0, 0, bytes);
        match self {
            Hearing::Nothing => vec![returns(0)],
            Hearing::Only([a, b, c, d, e, f]) => vec![
                line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
                line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, u32::from_be_bytes([a, b, c, d])),
                line(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 4),
                line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::from(u16::from_be_bytes([e, f]))),
                returns(u32::MAX),
                returns(0),
            ],
            Hearing::Everything => Vec::new(),
        }
    }
}

/// Whether a tap can have this name: 1 to 15 printable characters without '/', ':' (`dev_valid_name` in net/core/dev.c) and '%',
/// which stands for a number.
#[must_use]
pub fn is_tap_name(name: &str) -> bool {
    // One byte stays for the NUL.
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte))
}

fn interface_request(name: &str) -> Result<libc::ifreq, NetError> {
    // SAFETY: an all-zero `ifreq` is a valid one: integers, and pointers that nobody reads.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if !is_tap_name(name) {
        return Err(NetError::BadName { tap: name.to_owned() });
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // IFF_NO_PI is the same bit as IFF_NOFILTER, and that is needed, too: the kernel keeps the filter of a process that was
    // killed, as a pointer into that process, and would set it again here (`tun_attach` in drivers/net/tun.c).
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    Ok(request)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
