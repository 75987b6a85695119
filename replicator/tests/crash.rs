//! Guests that crash by themselves, and one that will not shut down: what two real nodes make of them.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

#[path = "../vmm/tests/common/mod.rs"]
mod common;

use std::fs;
use std::time::{Duration, Instant};

use kemari_control::{Crashes, Request, Role};
use kemari_site::{NodeName, Protected, ReplicationMode, Site, SiteError, SiteOptions};

use crate::common::ENTRY;

/// Long enough for everything but a hang.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits for two to three times 2^32 ticks of the TSC, a few seconds, and panics: `rdtsc; mov ebx,edx; 1: rdtsc; sub edx,ebx; cmp edx,3;
/// jb 1b; mov edx,0x505; mov al,1; out dx,al; 2: hlt; jmp 2b`.
const PANICS_LATER: &[u8] = &[
    0x0f, 0x31, 0x89, 0xd3, 0x0f, 0x31, 0x29, 0xda, 0x83, 0xfa, 3, 0x72, 0xf7, 0xba, 5, 5, 0, 0, 0xb0, 1, 0xee, 0xf4,
    0xeb, 0xfd,
];
/// Waits as long, says `!` at the console, and is off at once: after the wait `mov edx,0x3f8; mov al,'!'; out dx,al; mov edx,0x604;
/// mov ax,0x3400; out dx,ax; 2: hlt; jmp 2b`.
const SPEAKS_AND_GOES_LATER: &[u8] = &[
    0x0f, 0x31, 0x89, 0xd3, 0x0f, 0x31, 0x29, 0xda, 0x83, 0xfa, 3, 0x72, 0xf7, 0xba, 0xf8, 3, 0, 0, 0xb0, b'!', 0xee,
    0xba, 4, 6, 0, 0, 0x66, 0xb8, 0, 0x34, 0x66, 0xef, 0xf4, 0xeb, 0xfd,
];
/// Listens to nobody: `1: hlt; jmp 1b`.
const DEAF: &[u8] = &[0xf4, 0xeb, 0xfd];

/// A site whose guest is this code, with these lines in its `[guest]`.
fn site(code: &[u8], lines: &str) -> Option<Site> {
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 || !common::has_kvm() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root, with /dev/kvm");
        eprintln!("SKIPPED: needs root and /dev/kvm");
        return None;
    }
    let options = SiteOptions {
        binary: env!("CARGO_BIN_EXE_kemari-replicator").into(),
        mode: ReplicationMode::Event,
        vcpus: 1,
        memory_mib: 16,
        dirty_pages: 0,
        dirty_rate: 0,
        disk_mib: 1,
        socket_buffer_bytes: None,
        sabotage: None,
    };
    let site = Site::build(options).expect("a site");
    fs::write(site.directory().join("guest.elf"), common::elf(&[(ENTRY, code)])).expect("written");
    let configurations: Vec<_> = fs::read_dir(site.directory())
        .expect("readable")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert_eq!(configurations.len(), 2);
    for path in configurations {
        let text = fs::read_to_string(&path).expect("readable");
        fs::write(&path, text.replacen("[guest]\n", &format!("[guest]\n{lines}\n"), 1)).expect("written");
    }
    Some(site)
}

fn panics(crashes: &Option<Crashes>) -> u32 {
    crashes.as_ref().filter(|crashes| crashes.last == "panic").map_or(0, |crashes| crashes.count)
}

#[test]
#[ignore = "for a machine that does nothing else: tests/run kill"]
fn a_guest_that_panics_is_booted_anew_and_its_crashes_are_counted_across_a_failover() {
    let Some(site) = site(PANICS_LATER, "") else { return };
    let mut pair = Protected::boot(&site, |_| ()).expect("protected");
    let status = pair.primary.wait("a second crash", LIMIT, |status| panics(&status.crashes) == 2).expect("twice");
    assert_eq!((status.role, status.halted), (Role::Primary, None));
    pair.primary.request("commit", &Request::Checkpoint).expect("committed");
    let alone = pair.kill_primary().expect("killed").promote().expect("promoted");
    let count = panics(&alone.primary.status().expect("a status").crashes);
    assert!(count >= 2, "{count} crashes are left of two");
}

#[test]
#[ignore = "for a machine that does nothing else: tests/run kill"]
fn a_guest_that_panics_is_failed_over_once() {
    let Some(site) = site(PANICS_LATER, "on_guest_panic = \"failover-once\"") else { return };
    let mut pair = Protected::boot(&site, |_| ()).expect("protected");
    assert!(pair.primary_ends(LIMIT).expect("known"), "it is to leave the guest to its standby");
    let mut alone = pair.ended().promote().expect("promoted");
    let count = panics(&alone.primary.status().expect("a status").crashes);
    // It goes on from a moment before, so that it may have panicked again by now.
    assert!((1..=2).contains(&count), "{count} crashes: the primary had counted one when it left");
    let status = alone.primary.wait("the crash again", LIMIT, |status| panics(&status.crashes) == 2);
    assert_eq!(status.expect("it is booted anew here").role, Role::Primary);
}

#[test]
#[ignore = "for a machine that does nothing else: tests/run kill"]
fn a_guest_that_panics_can_be_kept_for_a_look() {
    let Some(site) = site(PANICS_LATER, "on_guest_panic = \"stop\"") else { return };
    let mut pair = Protected::boot(&site, |_| ()).expect("protected");
    let halted = |primary: &mut kemari_site::Node| {
        primary.wait("that it stands still", LIMIT, |status| status.halted.is_some()).expect("it stands still")
    };
    let status = halted(&mut pair.primary);
    assert!(status.halted.is_some_and(|reason| reason.contains("panicked")) && panics(&status.crashes) == 1);
    pair.primary.request("reset", &Request::Reset).expect("reset");
    let runs = pair.primary.wait("that it runs", LIMIT, |status| status.halted.is_none());
    assert_eq!(panics(&runs.expect("it runs").crashes), 1);
    assert_eq!(panics(&halted(&mut pair.primary).crashes), 2);
    pair.primary.request("shut down", &Request::Shutdown).expect("nothing is left to shut down");
    assert_eq!(pair.primary.status().expect("a status").role, Role::Standby);
}

#[test]
#[ignore = "for a machine that does nothing else: tests/run kill"]
fn what_a_guest_says_last_is_shown_before_its_node_ends() {
    let Some(site) = site(SPEAKS_AND_GOES_LATER, "") else { return };
    let mut pair = Protected::boot(&site, |_| ()).expect("protected");
    assert!(pair.primary_ends(LIMIT).expect("known"), "the guest does not go");
    assert_eq!(fs::read_to_string(site.directory().join("console")).expect("readable"), "!");
    assert_eq!(pair.primary.ended().expect("known").and_then(|status| status.code()), Some(0));
}

#[test]
#[ignore = "for a machine that does nothing else: tests/run kill"]
fn a_guest_that_does_not_shut_down_is_given_its_time() {
    let Some(site) = site(DEAF, "shutdown_timeout_s = 2") else { return };
    site.create_guest(NodeName::Alpha).expect("created");
    let mut primary = site.start(NodeName::Alpha).expect("started");
    primary.request("boot the guest", &Request::Promote { cold_boot: false }).expect("booted");
    let begun = Instant::now();
    let Err(SiteError::Refused { reason, .. }) = primary.request("shut down", &Request::Shutdown) else {
        panic!("it cannot have shut down")
    };
    let took = begun.elapsed();
    assert!(reason.contains("did not shut down within 2 s, and runs on"), "{reason}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(primary.status().expect("a status").role, Role::Primary);
    let begun = Instant::now();
    // The answer may be lost with the process.
    let _ = primary.request("stop", &Request::Stop);
    while primary.ended().expect("known").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(primary.ended().expect("known").and_then(|status| status.code()), Some(1), "ended with the guest");
    assert!(begun.elapsed() >= Duration::from_secs(2), "the guest was not given its time");
}
