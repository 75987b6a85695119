//! QEMU's `microvm` with the guest in it, and a client of its ledger.

use kemari_guest::wire::{MESSAGE, PORT, Reply, Request, SECTOR, UDP_PORT};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
const PATIENCE: Duration = Duration::from_secs(60);

/// What outlives a machine: the kernel image and the disk.
pub(crate) struct Site {
    directory: tempfile::TempDir,
    pub(crate) disk: PathBuf,
}

impl Site {
    /// A place with an empty disk, or `None` (said aloud) where there is no QEMU.
    pub(crate) fn new() -> Option<Self> {
        if Command::new(QEMU).arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("CI").is_none(), "{QEMU} is not installed");
            eprintln!("SKIPPED: {QEMU} is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk.raw");
        File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        std::fs::write(directory.path().join("ledger"), kemari_guest_image::ELF).unwrap();
        Some(Self { directory, disk })
    }

    pub(crate) fn write_sectors(&self, sectors: &[[u8; SECTOR]]) {
        File::options().write(true).open(&self.disk).unwrap().write_all_at(&sectors.concat(), 0).unwrap();
    }
}

/// A running machine; dropping it kills it.
pub(crate) struct Machine {
    child: Child,
    console: BufReader<ChildStdout>,
    monitor: UnixStream,
    tcp_port: u16,
    udp_port: u16,
    /// What the guest said when it had booted.
    pub(crate) booted: String,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// Boots the guest with `options` on its command line, and waits until it has said something.
    pub(crate) fn start(site: &Site, options: &str) -> Self {
        let at = |name: &str| site.directory.path().join(name).display().to_string();
        let (tcp_port, udp_port) = free_ports();
        let (monitor, theirs) = (at("monitor"), format!("unix:{},server=on,wait=off", at("monitor")));
        let network = format!(
            "user,id=net,hostfwd=tcp:127.0.0.1:{tcp_port}-:{PORT},hostfwd=udp:127.0.0.1:{udp_port}-:{UDP_PORT}"
        );
        let mut child = Command::new(QEMU)
            .args(["-M", "microvm,acpi=off,pit=off,rtc=off,accel=tcg", "-cpu", "max", "-m", "32"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-global", "virtio-mmio.force-legacy=false", "-device", "i8042"])
            .args(["-kernel", &at("ledger"), "-append", &format!("ip=10.0.2.15/24 gw=10.0.2.2 {options}")])
            .args(["-serial", "stdio", "-qmp", &theirs])
            .args(["-drive", &format!("if=none,id=disk,format=raw,file={}", site.disk.display())])
            .args(["-device", "virtio-blk-device,drive=disk"])
            .args(["-netdev", &network, "-device", "virtio-net-device,netdev=net"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut console = BufReader::new(child.stdout.take().unwrap());
        let mut booted = String::new();
        console.read_line(&mut booted).unwrap();
        if booted.contains("panicked") {
            console.read_to_string(&mut booted).unwrap();
        }
        let monitor = match UnixStream::connect(&monitor) {
            Ok(monitor) => monitor,
            // The guest has ended the machine already; nobody will use it.
            Err(_) => UnixStream::pair().unwrap().0,
        };
        Self { child, console, monitor, tcp_port, udp_port, booted }
    }

    /// A new connection to the ledger.
    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.tcp_port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    /// Asks the counter by UDP, once: on the way through QEMU no datagram is lost.
    pub(crate) fn ask_udp(&self) -> Reply {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", self.udp_port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"?").unwrap();
        let mut message = [0; MESSAGE];
        assert_eq!(socket.recv(&mut message).unwrap(), MESSAGE);
        Reply::decode(&message).unwrap().1
    }

    /// Presses Ctrl-Alt-Del and waits until the machine has ended; what the guest said meanwhile.
    pub(crate) fn press_ctrl_alt_del(&mut self) -> String {
        let keys: Vec<_> = ["ctrl", "alt", "delete"].map(|key| json!({"type": "qcode", "data": key})).into();
        self.command(&json!({"execute": "qmp_capabilities"}));
        self.command(&json!({"execute": "send-key", "arguments": {"keys": keys}}));
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the guest did not reset");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut said = String::new();
        self.console.read_to_string(&mut said).unwrap();
        said
    }

    fn command(&mut self, command: &Value) {
        writeln!(self.monitor, "{command}").unwrap();
    }
}

/// Two ports nobody uses now. Somebody could take them before QEMU does, which then says so and ends.
fn free_ports() -> (u16, u16) {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port())
}

/// A connection to the ledger.
pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) fn ask(&mut self, request: Request) -> Reply {
        self.ask_all(&[request])[0]
    }

    pub(crate) fn ask_all(&mut self, requests: &[Request]) -> Vec<Reply> {
        self.send(requests);
        self.receive(requests.len())
    }

    /// Sends `requests` with tags from 0 on.
    pub(crate) fn send(&mut self, requests: &[Request]) {
        let messages: Vec<_> = requests.iter().zip(0..).map(|(request, tag)| request.encode(tag)).collect();
        self.send_bytes(&messages.concat());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next `count` replies, whose tags grow from 0.
    pub(crate) fn receive(&mut self, count: usize) -> Vec<Reply> {
        let one = |expected: u64| {
            let mut message = [0; MESSAGE];
            self.0.read_exact(&mut message).unwrap();
            let (tag, reply) = Reply::decode(&message).unwrap();
            // What cannot be decoded has no tag to return.
            assert!(tag == expected || matches!(reply, Reply::Refused(_)), "tag {tag} instead of {expected}");
            reply
        };
        (0..count as u64).map(one).collect()
    }

    /// Whether a request is answered and not the connection reset.
    pub(crate) fn is_served(&mut self) -> bool {
        let mut message = [0; MESSAGE];
        self.0.write_all(&Request::Counter.encode(0)).is_ok() && self.0.read_exact(&mut message).is_ok()
    }

    /// Whether the guest has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0; 1]).unwrap() == 0
    }
}
