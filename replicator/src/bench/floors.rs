//! What this machine can do at best, measured in the same run as what we do with it.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use vmm_sys_util::errno;

const MEMCPY_BYTES: usize = 64 << 20;
const MEMCPY_ROUNDS: usize = 8;
const ROUND_TRIPS: usize = 2000;
const STREAM_BYTES: usize = 256 << 20;
const KVM_EXITS: usize = 5000;

/// The floors under every figure of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Floors {
    /// Copying 64 MiB from memory to memory, GB/s.
    pub memcpy_gb_s: f64,
    /// Median round trip of 64 bytes over loopback TCP between two threads, µs.
    pub round_trip_us: f64,
    /// One loopback TCP stream between two threads, GB/s.
    pub stream_gb_s: f64,
    /// Median time from KVM_RUN to its return for one port write of a guest that does nothing else, µs.
    pub kvm_exit_us: f64,
}

/// Why a floor could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// Loopback TCP failed.
    #[error("measuring loopback TCP: {0}")]
    Loopback(#[from] io::Error),
    /// KVM failed.
    #[error("measuring a raw KVM exit: {0}")]
    Kvm(#[from] errno::Error),
}

impl Floors {
    /// Measures them all; takes about two seconds.
    ///
    /// # Errors
    /// Loopback TCP or KVM is not usable.
    pub fn measure() -> Result<Floors, FloorError> {
        Ok(Floors {
            memcpy_gb_s: memcpy_gb_s(),
            round_trip_us: round_trip_us()?,
            stream_gb_s: stream_gb_s()?,
            kvm_exit_us: kvm_exit_us()?,
        })
    }
}

fn memcpy_gb_s() -> f64 {
    let from = vec![1u8; MEMCPY_BYTES];
    let mut to = vec![0u8; MEMCPY_BYTES];
    let best = (0..MEMCPY_ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
            begun.elapsed()
        })
        .min()
        .unwrap_or(Duration::MAX);
    MEMCPY_BYTES as f64 / best.as_secs_f64() / 1e9
}

fn loopback_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

fn round_trip_us() -> io::Result<f64> {
    let (mut near, mut far) = loopback_pair()?;
    let echo = std::thread::spawn(move || {
        let mut message = [0; 64];
        while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
    });
    let mut message = [7; 64];
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let begun = Instant::now();
        near.write_all(&message)?;
        near.read_exact(&mut message)?;
        times.push(begun.elapsed());
    }
    drop(near);
    let _ = echo.join();
    Ok(median_us(times))
}

fn stream_gb_s() -> io::Result<f64> {
    let (mut near, mut far) = loopback_pair()?;
    let sender = std::thread::spawn(move || {
        let block = vec![3u8; 1 << 20];
        for _ in 0..STREAM_BYTES / block.len() {
            if near.write_all(&block).is_err() {
                return;
            }
        }
    });
    let mut block = vec![0u8; 1 << 20];
    let begun = Instant::now();
    let mut received = 0;
    loop {
        match far.read(&mut block)? {
            0 => break,
            count => received += count,
        }
    }
    let elapsed = begun.elapsed();
    let _ = sender.join();
    Ok(received as f64 / elapsed.as_secs_f64() / 1e9)
}

/// A guest of three instructions in real mode: `out 0x80, al; jmp back`.
fn kvm_exit_us() -> Result<f64, errno::Error> {
    const CODE: [u8; 4] = [0xe6, 0x80, 0xeb, 0xfc];
    let mut page = Page([0; kemari_core::PAGE_SIZE]);
    page.0[..CODE.len()].copy_from_slice(&CODE);
    let vm = Kvm::new()?.create_vm()?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: 0x1000,
        memory_size: page.0.len() as u64,
        userspace_addr: page.0.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: `page` is page-aligned and outlives `vm`, which is dropped first (declared later).
    unsafe { vm.set_user_memory_region(region)? };
    let mut vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = 0x1000;
    regs.rflags = 2;
    vcpu.set_regs(&regs)?;
    let mut times = Vec::with_capacity(KVM_EXITS);
    for _ in 0..KVM_EXITS {
        let begun = Instant::now();
        let exit = vcpu.run()?;
        times.push(begun.elapsed());
        if !matches!(exit, VcpuExit::IoOut(0x80, _)) {
            return Err(errno::Error::new(libc::EIO));
        }
    }
    Ok(median_us(times))
}

#[repr(align(4096))]
struct Page([u8; kemari_core::PAGE_SIZE]);

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |median| median.as_secs_f64() * 1e6)
}
