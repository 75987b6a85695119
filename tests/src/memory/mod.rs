//! Memory errors: the signal that the kernel sends when the hardware has lost a page of the guest's memory, sent to real nodes
//! under load.
//!
//! A page that is not being written to must be mended, the guest going on where it is; one that is must end the primary, and
//! the guest goes on on its standby; a standby must have what it lost sent anew. In each case no client may be able to tell.

mod tracee;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kemari_control::{Replication, Status};
use kemari_site::{
    Alone, Load, LoadOptions, Probe, Protected, ReplicationMode, Site, SiteError, SiteOptions, Violation, Witness,
};

use self::tracee::Tracee;

const MEMORY_MIB: u64 = 64;
const PAUSE: Duration = Duration::from_millis(5);
const PROBE_PAUSE: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(20);
/// Time for clients to see something after it has happened.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Time for a node to end in, if it does.
const REACTION: Duration = Duration::from_millis(50);
/// Pages that the guest writes to all the time: a signal meets one of them dirty, or in a checkpoint on its way.
const RESTLESS_PAGES: u64 = 4;
const RESTLESS_RATE: u64 = 100_000;
/// How often a loss is told.
const TELLS: usize = 5;
/// A page that is written to all the time may be met clean by chance, and is mended then.
const ATTEMPTS: usize = 100;
/// How often a page must be seen to change in a row.
const LOOKS: usize = 5;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("cannot {step}: {source}")]
    Trace { step: &'static str, source: std::io::Error },
    #[error("{0}")]
    Wrong(String),
}

/// Runs all of it, and says how it went.
pub(crate) fn run(binary: PathBuf) -> Result<(), MemoryError> {
    let site = Site::build(SiteOptions {
        binary,
        mode: ReplicationMode::Event,
        vcpus: 1,
        memory_mib: MEMORY_MIB,
        dirty_pages: RESTLESS_PAGES,
        dirty_rate: RESTLESS_RATE,
        disk_mib: 256,
        socket_buffer_bytes: None,
        sabotage: None,
    })?;
    let outcome = play(&site);
    if outcome.is_err() {
        eprintln!("{}", site.log_tails());
    }
    outcome
}

fn play(site: &Site) -> Result<(), MemoryError> {
    let pair = Protected::boot(site, |_| ())?;
    let witness = Arc::new(Witness::default());
    let load =
        Load::start(LoadOptions { client: 1, window: 4, pause: PAUSE, patience: PATIENCE }, Arc::clone(&witness))?;
    let probe = Probe::start(PROBE_PAUSE, Arc::clone(&witness));
    let began = Instant::now();
    let pair = clean_page(pair)?;
    println!("ok      a page that the guest does not write to is mended, and the guest goes on");
    let pair = standby_page(pair)?;
    println!("ok      a standby that lost a page is brought in sync anew");
    let (pair, outage) = dirty_page(pair, site, &probe)?;
    println!("ok      a page that the guest writes to ends its node; silence of {} ms", outage.as_millis());
    load.abort();
    probe.finish();
    if let Some(violation) = witness.take_violations().into_iter().next() {
        return Err(violation.into());
    }
    let acknowledged = witness.acknowledged(0);
    site.disk().read(0)?.check(&acknowledged)?;
    println!("{} entries in {} s, each on the disk once", acknowledged.len(), began.elapsed().as_secs());
    last_page(pair.kill_primary()?.promote()?, site)?;
    println!("ok      without a standby a guest goes on without a page that it does not touch, and is not replicated");
    Ok(())
}

/// Code of the guest, which runs all the time and is never written to; and a page that it has no use for, which really has
/// something else in it when it is lost.
fn clean_page(pair: Protected) -> Result<Protected, MemoryError> {
    let tracee = Tracee::new(pair.primary.status()?.pid, MEMORY_MIB)?;
    let is_used = |content: &[u8]| content.iter().any(|byte| *byte != 0);
    let code = tracee.find_page(|before, after| before == after && is_used(before))?;
    let unused = tracee.find_page(|before, after| !is_used(before) && !is_used(after))?;
    let mut mended = 0;
    for page in [code, unused] {
        let content = tracee.read(page)?;
        if page == unused {
            tracee.spoil(page)?;
        }
        // Told again and again, as by several vCPUs and the kernel itself, before it is mended or just after.
        (0..TELLS).try_for_each(|_| tracee.lose(page))?;
        await_that("the page to be mended", || Ok(pair.primary.status()?.mended_pages > mended))?;
        mended = pair.primary.status()?.mended_pages;
        std::thread::sleep(AFTERWARDS);
        if tracee.read(page)? != content {
            return Err(MemoryError::Wrong(format!("page {page} is not as it was")));
        }
    }
    Ok(pair)
}

fn standby_page(mut pair: Protected) -> Result<Protected, MemoryError> {
    let before = pair.standby.status()?;
    Tracee::new(before.pid, MEMORY_MIB)?.lose(1000)?;
    await_that("the standby's image to be discarded", || Ok(!is_protected(&pair.primary.status()?)))?;
    pair.primary.wait("protected", LIMIT, is_protected)?;
    if pair.standby.status()?.pid != before.pid {
        return Err(MemoryError::Wrong("the standby has ended".to_owned()));
    }
    Ok(pair)
}

fn is_protected(status: &Status) -> bool {
    status.replication == Replication::Protected
}

fn dirty_page(mut pair: Protected, site: &Site, probe: &Probe) -> Result<(Protected, Duration), MemoryError> {
    let tracee = Tracee::new(pair.primary.status()?.pid, MEMORY_MIB)?;
    let page = busy_page(&tracee)?;
    for _ in 0..ATTEMPTS {
        let _ = probe.progress().take_longest_gap();
        tracee.lose(page)?;
        if pair.primary_ends(REACTION)? {
            let pair = pair.ended().promote()?.rejoin(site, |_| ())?;
            std::thread::sleep(AFTERWARDS);
            return Ok((pair, probe.progress().take_longest_gap()));
        }
    }
    Err(MemoryError::Wrong(format!("page {page}, which the guest writes to, was mended {ATTEMPTS} times")))
}

/// A page that the guest writes to all the time: one that it writes to now and then is seldom dirty.
fn busy_page(tracee: &Tracee) -> Result<u64, MemoryError> {
    for _ in 0..ATTEMPTS {
        let page = tracee.find_page(|before, after| before != after)?;
        let mut looks = 0;
        let mut last = tracee.read(page)?;
        while looks < LOOKS {
            std::thread::sleep(PAUSE);
            let now = tracee.read(page)?;
            if now == last {
                break;
            }
            (looks, last) = (looks + 1, now);
        }
        if looks == LOOKS {
            return Ok(page);
        }
    }
    Err(MemoryError::Wrong("the guest writes to no page all the time".to_owned()))
}

/// A page that nobody has touched, on a node without a standby.
fn last_page(mut alone: Alone, site: &Site) -> Result<(), MemoryError> {
    let tracee = Tracee::new(alone.primary.status()?.pid, MEMORY_MIB)?;
    let is_used = |content: &[u8]| content.iter().any(|byte| *byte != 0);
    let unused = tracee.find_page(|before, after| !is_used(before) && !is_used(after))?;
    tracee.lose(unused)?;
    std::thread::sleep(REACTION);
    if alone.primary.ended()?.is_some() {
        return Err(MemoryError::Wrong("the only node has ended for a page that its guest does not use".to_owned()));
    }
    let _standby = site.start(alone.primary.name().peer())?;
    await_that("the reason why the standby is not wanted", || {
        Ok(alone.primary.status()?.trouble.is_some_and(|trouble| trouble.contains("cannot be replicated")))
    })
}

fn await_that(what: &str, mut is_so: impl FnMut() -> Result<bool, SiteError>) -> Result<(), MemoryError> {
    let limit = Instant::now() + LIMIT;
    while !is_so()? {
        if Instant::now() >= limit {
            return Err(MemoryError::Wrong(format!("{} s were not enough for {what}", LIMIT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
