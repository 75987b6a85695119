//! The guest's command line: `ip=10.77.0.2/24 gw=10.77.0.1 flush=1 dirty_pages=64 dirty_rate=1000
//! virtio_mmio.device=4K@0xd0000000:5 …`. Words it does not know are left to others, as a kernel does.

/// Most devices it takes note of.
pub const MAX_DEVICES: usize = 8;

/// One `virtio_mmio.device=SIZE@ADDRESS:IRQ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Bytes of its register window.
    pub size: u64,
    /// Guest-physical address of its registers.
    pub address: u64,
    /// Its interrupt: a pin of the IOAPIC.
    pub irq: u32,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    /// IPv4 address of the guest; 10.77.0.2 unless told.
    pub ip: [u8; 4],
    /// Bits of the network prefix; 24 unless told.
    pub prefix: u8,
    /// Default gateway, if any.
    pub gateway: Option<[u8; 4]>,
    /// Whether an append is answered only after a flush of the disk.
    pub flush: bool,
    /// Pages of 4 KiB in the working set of the memory workload; 0 for none.
    pub dirty_pages: u64,
    /// Pages the workload writes per second; 0 for none.
    pub dirty_rate: u64,
    /// The virtio devices announced, the first [`MAX_DEVICES`].
    pub devices: [Option<MmioDevice>; MAX_DEVICES],
}

impl Cmdline {
    /// Understands a command line.
    ///
    /// # Errors
    /// The word whose value makes no sense.
    pub fn parse(line: &str) -> Result<Self, &str> {
        let mut parsed = Self {
            ip: [10, 77, 0, 2],
            prefix: 24,
            gateway: None,
            flush: false,
            dirty_pages: 0,
            dirty_rate: 0,
            devices: [None; MAX_DEVICES],
        };
        let mut devices = parsed.devices.iter_mut();
        for word in line.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else { continue };
            let understood = match key {
                "ip" => cidr(value).map(|(ip, prefix)| (parsed.ip, parsed.prefix) = (ip, prefix)),
                "gw" => ipv4(value).map(|gateway| parsed.gateway = Some(gateway)),
                "flush" => boolean(value).map(|flush| parsed.flush = flush),
                "dirty_pages" => value.parse().ok().map(|pages| parsed.dirty_pages = pages),
                "dirty_rate" => value.parse().ok().map(|rate| parsed.dirty_rate = rate),
                "virtio_mmio.device" => {
                    mmio_device(value).and_then(|device| devices.next().map(|slot| *slot = Some(device)))
                }
                _ => Some(()),
            };
            understood.ok_or(word)?;
        }
        Ok(parsed)
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn cidr(text: &str) -> Option<([u8; 4], u8)> {
    let (address, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|bits| *bits <= 32)?;
    Some((ipv4(address)?, prefix))
}

fn ipv4(text: &str) -> Option<[u8; 4]> {
    text.parse::<core::net::Ipv4Addr>().ok().map(|address| address.octets())
}

/// As Linux reads it: sizes may end in K or M, numbers may be hexadecimal, an id may follow the interrupt.
fn mmio_device(text: &str) -> Option<MmioDevice> {
    let (size, rest) = text.split_once('@')?;
    let mut rest = rest.split(':');
    let address = number(rest.next()?)?;
    let irq = u32::try_from(number(rest.next()?)?).ok()?;
    let size = match size.as_bytes().last()? {
        b'K' | b'k' => number(&size[..size.len() - 1])?.checked_mul(1 << 10)?,
        b'M' | b'm' => number(&size[..size.len() - 1])?.checked_mul(1 << 20)?,
        _ => number(size)?,
    };
    Some(MmioDevice { size, address, irq })
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
