//! A network of its own for the calling thread and what it starts: loopback, a bridge, and a tap per node in it.
//!
//! The namespace has no name and no file. It is gone, taps and all, when the last process in it has ended, however it ended.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_char, c_int, c_short, c_ulong};

use crate::SiteError;

/// Address of the host on the bridge.
pub const BRIDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Address of the guest.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Length of the network part of both, in bits.
pub(crate) const PREFIX: u8 = 24;

const BRIDGE: &str = "kemari";
/// A bridge takes over its ports' addresses and so changes its own when one joins, unless it was given one. The guest would be
/// left with the old one.
const BRIDGE_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x4b, 0x00, 0x01];

// linux/sockios.h and linux/if_tun.h; not all of these are in libc for every target.
const SIOCBRADDBR: c_ulong = 0x89a0;
const SIOCBRADDIF: c_ulong = 0x89a2;
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETPERSIST: c_ulong = 0x4004_54cb;

/// The network of a site, in which the calling thread is from now on.
#[derive(Debug)]
pub struct Network {
    socket: OwnedFd,
}

impl Network {
    /// Moves the calling thread into a new network namespace and makes loopback and the bridge there. Threads and processes
    /// started from here on are in it, too; threads that exist already are not.
    ///
    /// # Errors
    /// Not root, or a kernel without network namespaces or bridges.
    pub fn enter() -> Result<Network, SiteError> {
        // SAFETY: no memory is passed.
        check("make a network namespace", unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        // SAFETY: no memory is passed.
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        check("open a socket", socket)?;
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let network = Network { socket: unsafe { OwnedFd::from_raw_fd(socket) } };
        // Neighbour discovery would only keep an idle guest awake. Where there is no IPv6 there is no such file.
        if let Err(error) = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
            log::debug!("IPv6 stays on: {error}");
        }
        network.up("lo")?;
        network.add_bridge()?;
        Ok(network)
    }

    /// Makes a persistent tap, as `ip tuntap add NAME mode tap vnet_hdr` does, up and in the bridge.
    ///
    /// # Errors
    /// No /dev/net/tun, or the kernel refuses.
    pub fn add_tap(&self, name: &str) -> Result<(), SiteError> {
        let tun = open_tun()?;
        let mut request = about(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as c_short;
        let step = format!("make the tap {name}");
        // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
        check(&step, unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        // SAFETY: TUNSETPERSIST takes its argument by value.
        check(&step, unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETPERSIST, 1 as c_ulong) })?;
        let mut port = about(BRIDGE);
        port.ifr_ifru.ifru_ifindex = self.index(name)?;
        self.ioctl(&format!("put {name} into the bridge"), SIOCBRADDIF, &mut port)?;
        self.up(name)
    }

    /// Limits the buffers of the TCP sockets made from here on (tcp(7): minimum, default and maximum of each).
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn limit_socket_buffers(&self, bytes: u32) -> Result<(), SiteError> {
        for name in ["tcp_rmem", "tcp_wmem"] {
            fs::write(format!("/proc/sys/net/ipv4/{name}"), format!("{bytes} {bytes} {bytes}"))
                .map_err(|source| SiteError::Network { step: format!("set {name}"), source })?;
        }
        Ok(())
    }

    fn add_bridge(&self) -> Result<(), SiteError> {
        let step = "make a bridge (is the kernel module `bridge` there?)";
        let name = about(BRIDGE);
        // SAFETY: SIOCBRADDBR reads a name of at most IFNAMSIZ bytes, which outlives the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCBRADDBR, name.ifr_name.as_ptr()) };
        check(step, result)?;
        let mut mac = about(BRIDGE);
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        for (place, byte) in address.sa_data.iter_mut().zip(BRIDGE_MAC) {
            *place = byte as c_char;
        }
        mac.ifr_ifru.ifru_hwaddr = address;
        self.ioctl("set the bridge's MAC address", libc::SIOCSIFHWADDR as c_ulong, &mut mac)?;
        let mut address = about(BRIDGE);
        address.ifr_ifru.ifru_addr = ipv4(BRIDGE_ADDRESS);
        self.ioctl("set the bridge's address", libc::SIOCSIFADDR as c_ulong, &mut address)?;
        let mut netmask = about(BRIDGE);
        netmask.ifr_ifru.ifru_netmask = ipv4(Ipv4Addr::from_bits(u32::MAX << (32 - PREFIX)));
        self.ioctl("set the bridge's netmask", libc::SIOCSIFNETMASK as c_ulong, &mut netmask)?;
        self.up(BRIDGE)
    }

    fn up(&self, name: &str) -> Result<(), SiteError> {
        let step = format!("bring {name} up");
        let mut request = about(name);
        self.ioctl(&step, libc::SIOCGIFFLAGS as c_ulong, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has just filled this member.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short;
        self.ioctl(&step, libc::SIOCSIFFLAGS as c_ulong, &mut request)
    }

    fn index(&self, name: &str) -> Result<c_int, SiteError> {
        let mut request = about(name);
        self.ioctl(&format!("find {name}"), libc::SIOCGIFINDEX as c_ulong, &mut request)?;
        // SAFETY: SIOCGIFINDEX has just filled this member.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    fn ioctl(&self, step: &str, code: c_ulong, request: &mut libc::ifreq) -> Result<(), SiteError> {
        // SAFETY: every code passed here reads or writes one ifreq, which outlives the call.
        check(step, unsafe { libc::ioctl(self.socket.as_raw_fd(), code, &raw mut *request) })
    }
}

/// An ifreq about the interface of this name; what exceeds the kernel's limit is cut off.
fn about(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is a valid ifreq, a name and a union of plain integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: it ends the name.
    for (place, byte) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *place = byte as c_char;
    }
    request
}

/// Opens the device that taps are made with.
pub(crate) fn open_tun() -> Result<File, SiteError> {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(|source| SiteError::Device {
        device: "/dev/net/tun",
        source,
        remedy: "load the kernel module `tun`",
    })
}

fn ipv4(address: Ipv4Addr) -> libc::sockaddr {
    // struct sockaddr_in: family, port (2 bytes), address in network order (4 bytes).
    let mut generic = libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: [0; 14] };
    for (place, byte) in generic.sa_data[2..6].iter_mut().zip(address.octets()) {
        *place = byte as c_char;
    }
    generic
}

fn check(step: &str, result: c_int) -> Result<(), SiteError> {
    if result < 0 {
        return Err(SiteError::Network { step: step.to_owned(), source: io::Error::last_os_error() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_datagram_to_the_guest_is_asked_for_at_every_tap() {
        // SAFETY: geteuid cannot fail and takes nothing.
        if unsafe { libc::geteuid() } != 0 {
            assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
            eprintln!("SKIPPED: needs root");
            return;
        }
        // The namespace is that of this test's thread, and gone with it.
        let network = Network::enter().expect("a namespace");
        network.add_tap("tap-a").expect("a tap");
        network.add_tap("tap-b").expect("another");
        network.add_tap("tap-b").expect_err("a name taken");
        let mut taps: Vec<File> = ["tap-a", "tap-b"].map(attach).into();
        let socket = UdpSocket::bind((BRIDGE_ADDRESS, 0)).expect("the bridge's address is ours");
        socket.send_to(b"hello", (GUEST_ADDRESS, 7)).expect("sent");
        for tap in &mut taps {
            // virtio_net_hdr (10 bytes), destination, source, type: ARP, who has 10.77.0.2
            let mut frame = [0; 2048];
            let length = loop {
                let length = tap.read(&mut frame).expect("a frame");
                if frame[22..24] == [0x08, 0x06] {
                    break length;
                }
            };
            assert_eq!(frame[16..22], BRIDGE_MAC);
            assert!(frame[..length].windows(4).any(|bytes| bytes == GUEST_ADDRESS.octets()));
        }
    }

    fn attach(name: &str) -> File {
        let tun = open_tun().expect("tun");
        let mut request = about(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
        let result = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &raw mut request) };
        check("attach", result).expect("a persistent tap can be attached to");
        tun
    }
}
