//! A large guest that is reset: it stays protected all the while, and whoever resumes it on the way has it boot, too. The peer is taken for
//! lost after 250 ms.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kemari_control::{Client, Replication, Reply, Request, Status};
use kemari_site::{Alone, Protected, ReplicationMode, Site, SiteOptions, Survivor};

/// Of this much the guest writes half.
const MEMORY_MIB: u64 = 1024;
const DIRTY_PAGES: u64 = 120_000;

fn site() -> Option<Site> {
    // SAFETY: geteuid takes nothing and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !(root && kvm) {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root, with /dev/kvm");
        eprintln!("SKIPPED: needs root and /dev/kvm");
        return None;
    }
    let options = SiteOptions {
        binary: env!("CARGO_BIN_EXE_kemari-replicator").into(),
        mode: ReplicationMode::Event,
        vcpus: 1,
        memory_mib: MEMORY_MIB,
        dirty_pages: DIRTY_PAGES,
        dirty_rate: 30_000,
        disk_mib: 16,
        socket_buffer_bytes: None,
        sabotage: None,
    };
    Some(Site::build(options).expect("a site"))
}

fn is_protected(status: &Status) -> bool {
    status.replication == Replication::Protected
}

/// Boots the guest, and lets it fill its memory before somebody protects it.
fn booted(site: &Site) -> Protected {
    use kemari_site::NodeName::Alpha;
    site.create_guest(Alpha).expect("created");
    let primary = site.start(Alpha).expect("started");
    primary.request("boot the guest", &Request::Promote { cold_boot: false }).expect("booted");
    std::thread::sleep(Duration::from_secs(5));
    Alone { primary }.rejoin(site, |_| ()).expect("protected")
}

/// Asks a node for its status again and again until it is told to stop. Returns the longest time that an answer took.
fn longest_answer(control: &std::path::Path, stop: &AtomicBool) -> Duration {
    let mut client = Client::connect(control).expect("connected");
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let Reply::Status(status) = client.request(&Request::Status).expect("an answer") else { panic!("no status") };
        longest = longest.max(asked.elapsed());
        assert!(is_protected(&status), "{status:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    longest
}

#[test]
#[ignore = "for a machine that does nothing else: tests/run kill"]
fn a_large_guest_is_protected_while_it_is_reset() {
    let Some(site) = site() else { return };
    let Protected { mut primary, standby } = booted(&site);
    let count_before = primary.status().expect("a status").checkpoints.expect("of a primary").count;
    let stop = AtomicBool::new(false);
    let (took, longest) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| longest_answer(primary.control(), &stop));
        let begun = Instant::now();
        primary.request("reset", &Request::Reset).expect("reset");
        let took = wait_for_boot(&site, begun);
        stop.store(true, Ordering::Relaxed);
        (took, watch.join().expect("the guest was protected all the while"))
    });
    let status = primary.wait("protected", Duration::from_secs(5), is_protected).expect("protected");
    let parts = status.checkpoints.expect("of a primary").count - count_before;
    println!("reset and booted in {took:?} by {parts} checkpoints; the longest answer took {longest:?}");
    assert!(parts > DIRTY_PAGES / 4096, "{parts} checkpoints carry what does not fit one");
    drop((primary, standby));
}

#[test]
#[ignore = "for a machine that does nothing else: tests/run kill"]
fn a_primary_that_dies_within_a_reset_leaves_a_guest_that_boots() {
    let Some(site) = site() else { return };
    let pair = booted(&site);
    let begun = Instant::now();
    pair.primary.request("reset", &Request::Reset).expect("reset");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(boots(&site), 1, "it was too fast to be killed within its reset");
    let survivor: Survivor = pair.kill_primary().expect("killed");
    let mut alone = survivor.promote().expect("promoted");
    let took = wait_for_boot(&site, begun);
    println!("killed within its reset, it booted after {took:?}");
    alone.primary.wait("running", Duration::from_secs(1), |status| status.halted.is_none()).expect("it runs");
}

/// How often the guest has said that it boots.
fn boots(site: &Site) -> usize {
    console(site).matches("kemari-guest ").count()
}

fn console(site: &Site) -> String {
    std::fs::read_to_string(site.directory().join("console")).unwrap_or_default()
}

fn wait_for_boot(site: &Site, begun: Instant) -> Duration {
    while boots(site) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not boot: {}\n{}", site.log_tails(), console(site));
        std::thread::sleep(Duration::from_millis(1));
    }
    begun.elapsed()
}
