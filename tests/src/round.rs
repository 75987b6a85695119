//! A round: one guest, killed a number of times.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kemari_core::sabotage::Bug;
use kemari_site::{
    Alone, DiskImage, Load, LoadOptions, Probe, Protected, ReplicationMode, Site, SiteError, SiteOptions, Witness,
};
use serde::Serialize;

use crate::aim::{self, Aim};
use crate::kill::{Finding, Hit, Kill};
use crate::random::Random;

/// So many entries before the newest one that was checked are read again: the newest are not in order of their answers.
const OVERLAP: u64 = 256;
/// Requests that a client keeps outstanding; a bystander keeps more, so that some of them are always on their way.
const WINDOW: usize = 4;
const BYSTANDER_WINDOW: usize = 16;
/// Between answers and new requests, so that the guest's ledger lasts for a round.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two datagrams.
const PROBE_PAUSE: Duration = Duration::from_micros(500);
/// One kill in so many comes just after a planned move, when the roles were swapped and no process is new.
const MOVE_EVERY: usize = 4;
/// Time between two looks at something waited for.
const TICK: Duration = Duration::from_millis(2);

/// What a round is like.
#[derive(Clone, Debug)]
pub(crate) struct RoundOptions {
    /// The replicator.
    pub(crate) binary: PathBuf,
    /// When it cuts checkpoints.
    pub(crate) mode: ReplicationMode,
    /// CPUs of the guest.
    pub(crate) vcpus: u8,
    /// Where its random choices begin.
    pub(crate) seed: u64,
    /// Kills, unless something is found before.
    pub(crate) kills: u32,
    /// The aims of the kills, over and over.
    pub(crate) aims: &'static [Aim],
    /// The guest is moved as planned before each kill whose number this divides.
    pub(crate) move_every: Option<usize>,
    /// Load before a kill, ms.
    pub(crate) load_ms: std::ops::Range<u64>,
    /// TCP clients.
    pub(crate) clients: u32,
    /// How long a client goes without an answer before its connection counts as dead.
    pub(crate) patience: Duration,
    /// Whether a client comes before each kill and vanishes with the primary: what it sent and the guest forgot is never sent
    /// again.
    pub(crate) bystander: bool,
    /// Pages the guest writes to all the time, and how many of them a second: they decide how long a checkpoint travels.
    pub(crate) dirty_pages: u64,
    /// See above.
    pub(crate) dirty_rate: u64,
    /// The bug planted.
    pub(crate) bug: Option<Bug>,
    /// Whether to leave the site's files if something is found.
    pub(crate) keep_files: bool,
}

impl RoundOptions {
    /// A round that is to pass.
    pub(crate) fn soak(binary: PathBuf, mode: ReplicationMode, seed: u64, kills: u32) -> RoundOptions {
        use Aim::{Anywhere, DiskWrite, Held, Transfer, Uncommitted};
        RoundOptions {
            binary,
            mode,
            vcpus: 1,
            seed,
            kills,
            aims: &[Anywhere, Transfer, DiskWrite, Held, Anywhere, Uncommitted, Transfer, DiskWrite, Held, Anywhere],
            move_every: Some(MOVE_EVERY),
            load_ms: 100..500,
            clients: 3,
            patience: Duration::from_secs(15),
            bystander: false,
            dirty_pages: 256,
            dirty_rate: 2000,
            bug: None,
            keep_files: false,
        }
    }

    fn site(&self) -> SiteOptions {
        SiteOptions {
            binary: self.binary.clone(),
            mode: self.mode,
            vcpus: self.vcpus,
            memory_mib: 64,
            dirty_pages: self.dirty_pages,
            dirty_rate: self.dirty_rate,
            disk_mib: 256,
            socket_buffer_bytes: Some(32 << 10),
            sabotage: self.bug.map(Bug::name),
        }
    }
}

/// How one round went, or several.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// To be given again for the same choices.
    pub(crate) seed: u64,
    /// Kills wanted.
    pub(crate) wanted: u32,
    /// Kills survived.
    pub(crate) kills: Vec<Kill>,
    /// How long clients waited for an answer at each planned move, µs.
    pub(crate) moves_us: Vec<u64>,
    /// Entries acknowledged to the clients.
    pub(crate) entries: usize,
    /// Answers to the UDP client.
    pub(crate) counters: u64,
    /// What was found wrong.
    pub(crate) findings: Vec<String>,
    /// The last lines of the nodes' logs, if something was found.
    #[serde(skip)]
    pub(crate) logs: String,
}

impl Outcome {
    /// Nothing has happened yet.
    pub(crate) fn new(seed: u64, wanted: u32) -> Outcome {
        let (kills, moves_us, findings, logs) = (Vec::new(), Vec::new(), Vec::new(), String::new());
        Outcome { seed, wanted, kills, moves_us, entries: 0, counters: 0, findings, logs }
    }

    /// Whether nobody could tell, in enough kills of each kind.
    pub(crate) fn passed(&self) -> bool {
        self.findings.is_empty() && self.shortfalls().is_empty()
    }

    /// The kinds of kill that came too seldom for the whole to mean anything.
    pub(crate) fn shortfalls(&self) -> Vec<String> {
        let short = self.quotas().into_iter().filter(|(_, hits, wanted)| hits < wanted);
        short.map(|(kind, hits, wanted)| format!("{hits} kills {kind}, {wanted} wanted")).collect()
    }

    /// How many kills hit the primary in a state of this kind.
    pub(crate) fn count(&self, kind: fn(&Hit) -> bool) -> usize {
        self.kills.iter().filter(|kill| kind(&kill.hit)).count()
    }

    /// The kinds of kill that must make up so many percent of all.
    pub(crate) fn quotas(&self) -> [(&'static str, usize, usize); 3] {
        let need = |percent: usize| (self.wanted as usize * percent).div_ceil(100);
        [
            ("with output held", self.count(|hit| hit.held), need(30)),
            ("in mid-transfer", self.count(|hit| hit.mid_transfer), need(10)),
            ("with a disk write in flight", self.count(|hit| hit.disk_write), need(10)),
        ]
    }
}

/// A round in progress.
pub(crate) struct Round<'a> {
    options: RoundOptions,
    site: &'a Site,
    disk: DiskImage,
    random: Random,
    witness: Arc<Witness>,
    loads: Vec<Load>,
    /// How many of the acknowledged entries were compared with the disk.
    checked: usize,
    /// Up to which index.
    checked_index: u64,
    next_client: u32,
}

impl Round<'_> {
    /// Plays a round and adds it to `outcome`. `tell` hears of each kill.
    ///
    /// # Errors
    /// The round cannot begin. What goes wrong once the guest runs is a finding.
    pub(crate) fn run(
        options: RoundOptions,
        outcome: &mut Outcome,
        tell: &mut dyn FnMut(&Kill),
    ) -> Result<(), SiteError> {
        let mut site = Site::build(options.site())?;
        let witness = Arc::new(Witness::default());
        let mut round = Round {
            disk: site.disk(),
            random: Random::new(options.seed),
            witness: Arc::clone(&witness),
            loads: Vec::new(),
            checked: 0,
            checked_index: 0,
            next_client: 1,
            options,
            site: &site,
        };
        let result = round.play(outcome, tell);
        let keep_files = round.options.keep_files;
        outcome.entries += witness.entries();
        // What a client saw says more than what followed from it.
        let seen = witness.take_violations().into_iter().map(Finding::from);
        outcome.findings.extend(seen.chain(result.err()).map(|finding| finding.to_string()));
        if !outcome.findings.is_empty() {
            outcome.logs = site.log_tails();
            if keep_files {
                eprintln!("the site's files are left in {}", site.keep_files().display());
            }
        }
        Ok(())
    }

    fn play(&mut self, outcome: &mut Outcome, tell: &mut dyn FnMut(&Kill)) -> Result<(), Finding> {
        let pair = Protected::boot(self.site, |_| {})?;
        let probe = Probe::start(PROBE_PAUSE, Arc::clone(&self.witness));
        let result = self.play_kills(pair, outcome, tell);
        outcome.counters += probe.answers();
        probe.finish();
        self.loads.drain(..).for_each(if result.is_ok() { Load::finish } else { Load::abort });
        drop(result?);
        self.check_clients()?;
        // All of it once more, from the start: only so is an entry found that is there twice.
        self.disk.read(0)?.check(&self.witness.acknowledged(0))?;
        Ok(())
    }

    fn play_kills(
        &mut self,
        mut pair: Protected,
        outcome: &mut Outcome,
        tell: &mut dyn FnMut(&Kill),
    ) -> Result<Protected, Finding> {
        for _ in 0..self.options.clients {
            let load = self.connect(WINDOW, PAUSE)?;
            self.loads.push(load);
        }
        for _ in 0..self.options.kills {
            let number = outcome.kills.len() + 1;
            if self.options.move_every.is_some_and(|every| number.is_multiple_of(every)) {
                pair = self.hand_over(pair, outcome)?;
            }
            let (next, kill) = self.kill(number, pair)?;
            tell(&kill);
            outcome.kills.push(kill);
            pair = next;
        }
        Ok(pair)
    }

    fn connect(&mut self, window: usize, pause: Duration) -> Result<Load, SiteError> {
        let options = LoadOptions { client: self.next_client, window, pause, patience: self.options.patience };
        self.next_client += 1;
        Load::start(options, Arc::clone(&self.witness))
    }

    /// Moves the guest to the standby, which is protected by the old primary from then on.
    fn hand_over(&mut self, pair: Protected, outcome: &mut Outcome) -> Result<Protected, Finding> {
        self.forget_gaps();
        let shown = self.disk.read(self.checked_index)?;
        let pair = pair.hand_over()?;
        outcome.moves_us.push(self.wait_for_answers()?.as_micros() as u64);
        self.check_disk(&shown)?;
        Ok(pair)
    }

    fn forget_gaps(&self) {
        for load in &self.loads {
            let _ = load.progress().take_longest_gap();
        }
    }

    fn kill(&mut self, number: usize, mut pair: Protected) -> Result<(Protected, Kill), Finding> {
        let bystander =
            if self.options.bystander { Some(self.connect(BYSTANDER_WINDOW, Duration::ZERO)?) } else { None };
        aim::rest(&mut self.random, self.options.load_ms.clone());
        self.check_clients()?;
        let aim = self.options.aims[(number - 1) % self.options.aims.len()];
        let evidence = aim.take(&mut pair.primary, &mut self.random)?;
        self.forget_gaps();
        let node = pair.primary.name().as_str();
        let begun = Instant::now();
        let survivor = pair.kill_primary()?;
        if let Some(bystander) = bystander {
            bystander.abort();
        }
        let shown = self.disk.read(self.checked_index)?;
        let alone = survivor.promote()?;
        let promotion_us = begun.elapsed().as_micros() as u64;
        let outage_us = self.wait_for_answers()?.as_micros() as u64;
        self.check_disk(&shown)?;
        let begun = Instant::now();
        let pair = self.rejoin(alone)?;
        let resync_us = begun.elapsed().as_micros() as u64;
        self.check_clients()?;
        Ok((pair, Kill { number, node, hit: evidence.into(), promotion_us, outage_us, resync_us }))
    }

    fn rejoin(&self, alone: Alone) -> Result<Protected, SiteError> {
        alone.rejoin(self.site, |_| {})
    }

    fn check_clients(&self) -> Result<(), Finding> {
        match self.witness.take_violations().into_iter().next() {
            Some(violation) => Err(violation.into()),
            None => Ok(()),
        }
    }

    /// Waits until each client has had answers that were not on their way to it before. Returns the longest outage.
    fn wait_for_answers(&self) -> Result<Duration, Finding> {
        let begun = Instant::now();
        let mut outage = Duration::ZERO;
        for (client, load) in (1..).zip(&self.loads) {
            let goal = load.progress().answers() + 2 * WINDOW as u64;
            while load.progress().answers() < goal {
                self.check_clients()?;
                if begun.elapsed() > self.options.patience {
                    return Err(Finding::Silent { client, waited: begun.elapsed() });
                }
                std::thread::sleep(TICK);
            }
            outage = outage.max(load.progress().take_longest_gap());
        }
        Ok(outage)
    }

    /// Checks the disk against everything acknowledged since the last time, and against what it `had` when the primary died.
    fn check_disk(&mut self, had: &kemari_site::Recorded) -> Result<(), Finding> {
        // First the answers, then the disk: what was answered must be there.
        let acknowledged = self.witness.acknowledged(self.checked);
        let recorded = self.disk.read(self.checked_index)?;
        recorded.check_keeps(had)?;
        let newest = acknowledged.iter().map(|entry| entry.index).max().unwrap_or(0);
        recorded.until(newest).check(&acknowledged)?;
        self.checked += acknowledged.len();
        self.checked_index = self.checked_index.max(newest.saturating_sub(OVERLAP));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kemari_replicator::evidence::Evidence;

    use super::*;

    fn outcome(evidence: &[Evidence], wanted: u32) -> Outcome {
        let mut outcome = Outcome::new(1, wanted);
        outcome.kills.extend((1..).zip(evidence).map(|(number, evidence)| Kill {
            number,
            node: "alpha",
            hit: (*evidence).into(),
            promotion_us: 1,
            outage_us: 1,
            resync_us: 1,
        }));
        outcome
    }

    #[test]
    fn kills_that_hit_nothing_are_not_enough() {
        let held = Evidence { held_frames: 1, ..Evidence::default() };
        let torn = Evidence { transfer_bytes: 100, unsent_bytes: 40, ..held };
        let writing = Evidence { disk_writes: 1, ..held };
        assert!(outcome(&[torn, writing, held, Evidence::default()], 4).passed());
        assert_eq!(outcome(&[torn, held, held], 3).shortfalls(), ["0 kills with a disk write in flight, 1 wanted"]);
        assert_eq!(outcome(&[held, writing, held], 3).shortfalls(), ["0 kills in mid-transfer, 1 wanted"]);
        let nothing_held = [Evidence { held_frames: 0, ..torn }, Evidence { held_frames: 0, ..writing }];
        assert_eq!(outcome(&nothing_held, 2).shortfalls(), ["0 kills with output held, 1 wanted"]);
    }

    #[test]
    fn one_finding_is_enough_to_fail() {
        let all =
            Evidence { held_frames: 1, transfer_bytes: 2, unsent_bytes: 1, disk_writes: 1, ..Evidence::default() };
        let mut outcome = outcome(&[all], 1);
        assert!(outcome.passed());
        assert_eq!(outcome.kills[0].hit.partial_bytes, 1);
        outcome.findings.push("lost".to_owned());
        assert!(!outcome.passed());
    }
}
