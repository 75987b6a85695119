//! The card on real taps, in a network namespace of their own. These need root.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::rig::number;
use super::*;

const TAP_NAME: &str = "kemari-test";

/// Runs a test in a new network namespace that is gone with its thread. One after the other: for a moment, a program that one of them
/// starts has the descriptors of all, and a tap that was closed would still be in use.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = std::thread::spawn(|| {
        // SAFETY: affects only the namespaces of this thread.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            let error = io::Error::last_os_error();
            assert!(std::env::var_os("CI").is_none(), "no network namespace: {error}");
            eprintln!("SKIPPED: no network namespace: {error}");
            return;
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, arguments: &str) -> String {
    let output = std::process::Command::new(program).args(arguments.split(' ')).output().expect(program);
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("plain text")
}

fn make_tap() {
    run("ip", &format!("tuntap add dev {TAP_NAME} mode tap"));
    // Nothing of the kernel's own is to be on it. Without IPv6 there is nothing to disable.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{TAP_NAME}/disable_ipv6"), "1");
    run("ip", &format!("link set {TAP_NAME} up"));
}

/// The host's side of the tap: what a bridge would send and receive.
struct Host(File);

impl Host {
    fn new() -> Host {
        let name = std::ffi::CString::new(TAP_NAME).expect("no zero in it");
        // SAFETY: plain system calls on values that live until they are done; the descriptor is new and ours.
        unsafe {
            let protocol = (libc::ETH_P_ALL as u16).to_be();
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, i32::from(protocol));
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            let file = File::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let bytes = size_of_val(&address) as libc::socklen_t;
            assert_eq!(libc::bind(fd, (&raw const address).cast(), bytes), 0, "{}", io::Error::last_os_error());
            Host(file)
        }
    }

    fn send(&mut self, number: u16) {
        self.0.write_all(&frame(number)).expect("the tap is up");
    }

    fn send_to(&mut self, mac: [u8; 6], number: u16) {
        let mut frame = frame(number);
        frame[..6].copy_from_slice(&mac);
        self.0.write_all(&frame).expect("the tap is up");
    }

    /// The next of our frames.
    fn receive(&mut self) -> Option<u16> {
        let end = Instant::now() + Duration::from_millis(500);
        let mut bytes = vec![0; 2000];
        while Instant::now() < end {
            match self.0.read(&mut bytes) {
                Ok(count) if bytes[12..14] == [0x88, 0xb5] => return Some(number(&bytes[..count])),
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        None
    }
}

fn is_silent(tap: &Tap) -> bool {
    tap.read(&mut [0; 100]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn rig() -> Rig {
    let (wire, _) = UnixDatagram::pair().expect("sockets");
    let tap = Tap::open(TAP_NAME).expect("the tap");
    // It has a carrier now, and the kernel begins to send a moment later.
    while run("ip", &format!("link show dev {TAP_NAME}")).contains("state DOWN") {
        std::thread::sleep(Duration::from_millis(1));
    }
    Rig::on(tap, wire)
}

/// Services the card until the guest has received something.
fn received(rig: &mut Rig) -> Vec<u16> {
    let end = Instant::now() + Duration::from_millis(500);
    loop {
        rig.service(TAP);
        let numbers = rig.received();
        if !numbers.is_empty() || Instant::now() > end {
            return numbers;
        }
    }
}

#[test]
fn frames_go_both_ways() {
    in_namespace(|| {
        make_tap();
        let mut host = Host::new();
        let mut rig = rig();
        rig.run();
        (0..8).for_each(|head| rig.make_room(head, ROOM));
        rig.transmit(0, 1);
        rig.transmit(1, 2);
        rig.settle();
        assert_eq!((host.receive(), host.receive()), (Some(1), Some(2)));
        assert_eq!(rig.net.stats().send_errors, 0);
        host.send(3);
        assert_eq!(received(&mut rig), [3]);
        host.send(4);
        assert_eq!(received(&mut rig), [4]);
    });
}

/// What the kernel was told with TUNSETOFFLOAD, as it shows in the features of the interface.
fn leaves_segments() -> bool {
    run("ethtool", &format!("-k {TAP_NAME}")).contains("tcp-segmentation-offload: on")
}

#[test]
fn the_tap_is_told_what_the_driver_agreed_to_also_after_a_load() {
    in_namespace(|| {
        make_tap();
        let mut rig = rig();
        rig.run();
        assert!(!leaves_segments());
        rig.run_with(FEATURES | offload::FEATURES);
        assert!(leaves_segments());
        let state = rig.state();
        let memory = rig.driver.bytes(0, crate::virtio::driver::MEMORY_BYTES);
        drop(rig);
        // Another process on another host, whose tap knows nothing.
        let mut other = self::rig();
        assert!(!leaves_segments());
        vm_memory::Bytes::write_slice(&other.driver.memory, &memory, vm_memory::GuestAddress(0)).expect("memory");
        other.net.load(1, &state).expect("good state");
        other.net.start();
        assert!(leaves_segments());
        other.run();
        assert!(!leaves_segments(), "a driver that does not want them");
    });
}

#[test]
fn a_card_that_waits_for_its_start_hears_nothing_stale() {
    in_namespace(|| {
        make_tap();
        let mut host = Host::new();
        let mut rig = rig();
        rig.driver.start(FEATURES);
        (0..8).for_each(|head| rig.make_room(head, ROOM));
        (0..1000).for_each(|number| host.send(number));
        rig.service_all();
        assert!(is_silent(&rig.net.tap));
        rig.net.start();
        host.send(2000);
        assert_eq!(received(&mut rig), [2000]);
        rig.net.stop();
        host.send(2001);
        assert!(is_silent(&rig.net.tap));
        rig.net.start();
        host.send(2002);
        assert_eq!(received(&mut rig), [2002]);
    });
}

#[test]
fn a_card_that_listens_keeps_what_is_for_its_guest_alone_and_not_for_long() {
    in_namespace(|| {
        make_tap();
        let mut host = Host::new();
        let mut rig = rig();
        rig.driver.start(FEATURES);
        (0..8).for_each(|head| rig.make_room(head, ROOM));
        host.send_to(MAC, 1);
        rig.net.set_listening(true);
        host.send(2);
        host.send_to([2, 0x4b, 0x4d, 0x52, 0x49, 8], 3);
        host.send_to(MAC, 4);
        rig.service_all();
        assert!(rig.received().is_empty(), "the guest does not run");
        rig.net.start();
        assert_eq!(received(&mut rig), [4]);
        rig.net.stop();
        // The primary is back.
        rig.net.set_listening(true);
        host.send_to(MAC, 5);
        rig.net.set_listening(false);
        rig.net.start();
        host.send(6);
        assert_eq!(received(&mut rig), [6]);
        rig.net.stop();
        rig.net.set_listening(true);
        host.send_to(MAC, 7);
        rig.net.listening = Instant::now().checked_sub(LISTENING_LIMIT * 2);
        rig.net.start();
        host.send(8);
        assert_eq!(received(&mut rig), [8]);
    });
}

/// Leaves the tap with a filter at an address that is no more, as a process that is killed does.
fn die_deaf() {
    let tap = Tap::open(TAP_NAME).expect("the tap");
    // SAFETY: the page is ours, large enough and aligned; nothing refers to it after it is unmapped but the kernel, which checks.
    unsafe {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let page = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        let filter = page.cast::<libc::sock_filter>();
        filter.write(libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 });
        let program = libc::sock_fprog { len: 1, filter };
        assert_eq!(libc::ioctl(tap.fd(), libc::TUNATTACHFILTER, &raw const program), 0);
        assert_eq!(libc::munmap(page, 4096), 0);
    }
}

#[test]
fn a_tap_whose_user_was_killed_can_be_used_again() {
    in_namespace(|| {
        make_tap();
        let mut host = Host::new();
        die_deaf();
        let mut rig = rig();
        rig.run();
        (0..8).for_each(|head| rig.make_room(head, ROOM));
        host.send(1);
        assert_eq!(received(&mut rig), [1]);
    });
}

#[test]
fn what_is_no_tap_is_refused_by_name_with_the_remedy() {
    in_namespace(|| {
        let refused = |name: &str| Tap::open(name).expect_err("no tap").to_string();
        assert!(refused(TAP_NAME).contains(&format!("ip tuntap add dev {TAP_NAME} mode tap")));
        run("ip", "tuntap add dev tun9 mode tun");
        run("ip", "tuntap add dev many9 mode tap multi_queue");
        for name in ["lo", "tun9", "many9"] {
            assert!(refused(name).contains("no tap with one queue"), "{}", refused(name));
        }
        make_tap();
        let used = Tap::open(TAP_NAME).expect("the tap");
        assert!(refused(TAP_NAME).contains("in use"));
        drop(used);
        Tap::open(TAP_NAME).expect("free again");
    });
    for name in ["", "sixteen-letters-", "a b", "a/b", "tap%d", "t\u{e4}p", "a\0b"] {
        assert!(matches!(Tap::open(name), Err(NetError::BadName { .. })), "{name:?}");
    }
}
