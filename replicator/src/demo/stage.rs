//! The acts of the demonstration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kemari_control::{Checkpoints, Gate, Status};
use kemari_site::{
    Alone, GUEST_ADDRESS, Load, LoadOptions, Node, Probe, Protected, ReplicationMode, Site, SiteError, SiteOptions,
    Witness,
};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::screen::{Screen, Tone, bar};
use super::{DemoError, Options};
use crate::evidence::Evidence;

/// How long the client goes without an answer before its connection counts as dead.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests that the client keeps outstanding, and its rest between answers and new ones.
const WINDOW: usize = 8;
const PAUSE: Duration = Duration::from_millis(2);
/// How often a primary is stopped and looked at before it is killed whatever it is doing.
const LOOKS: u32 = 100;
/// Time between two looks at anything.
const TICK: Duration = Duration::from_millis(20);

/// Something that happened to the guest, and what a client could tell of it.
struct Event {
    name: &'static str,
    /// From the command (or the SIGKILL) to the word that the guest runs on the other node.
    change: Duration,
    /// The longest time without an answer around it.
    silence: Duration,
    /// Until the guest was protected again.
    resync: Option<Duration>,
}

/// Everything that lasts for the whole demonstration.
pub(super) struct Stage {
    screen: Screen,
    interrupted: Arc<AtomicBool>,
    seconds: u64,
    witness: Arc<Witness>,
    client: Option<(Load, Probe)>,
    events: Vec<Event>,
    /// Last, so that it outlives the clients that are in it.
    site: Site,
}

impl Stage {
    /// Makes the site.
    pub(super) fn set(options: &Options) -> Result<Stage, DemoError> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let mut screen = Screen::new();
        screen.line("Kemari: one guest, two nodes, and a client that must not notice what happens to them.\n");
        let site = Site::build(SiteOptions {
            binary: std::env::current_exe()?,
            mode: ReplicationMode::Event,
            vcpus: 1,
            memory_mib: 128,
            dirty_pages: 1024,
            dirty_rate: 2000,
            disk_mib: 64,
            socket_buffer_bytes: None,
            sabotage: None,
        })?;
        let place = site.directory().display();
        screen.say(Tone::Plain, "site", format!("a network namespace, a tap for each node, a shared disk in {place}"));
        Ok(Stage {
            screen,
            interrupted,
            seconds: options.seconds,
            witness: Arc::default(),
            client: None,
            events: Vec::new(),
            site,
        })
    }

    /// Boots the guest and connects the client.
    pub(super) fn open(&mut self) -> Result<Protected, DemoError> {
        let begun = Instant::now();
        self.screen.say(Tone::Plain, "boot", "the guest boots on alpha; beta takes a copy of it while it runs");
        let pair = Protected::boot(&self.site, progress(&mut self.screen))?;
        self.protected(&pair, begun.elapsed());
        let options = LoadOptions { client: 1, window: WINDOW, pause: PAUSE, patience: PATIENCE };
        let load = Load::start(options, Arc::clone(&self.witness))?;
        let address = load.local_address();
        let probe = Probe::start(PAUSE, Arc::clone(&self.witness));
        self.screen.say(
            Tone::Plain,
            "client",
            format!(
                "{address} appends to the ledger at {GUEST_ADDRESS}: each answer means that an entry is on the disk"
            ),
        );
        self.client = Some((load, probe));
        Ok(pair)
    }

    /// Lets the client work for a while, and shows what it costs.
    pub(super) fn stream(&mut self, pair: &Protected) -> Result<(), DemoError> {
        let start = Sample::take(pair, &self.witness)?;
        while start.at.elapsed() < Duration::from_secs(self.seconds) {
            std::thread::sleep(TICK);
            self.check()?;
            let now = Sample::take(pair, &self.witness)?;
            self.screen.live(|| live(&start, &now));
        }
        self.screen.settle();
        Ok(())
    }

    /// Kills the primary while it works, promotes the standby, and brings the dead node back as the new standby.
    pub(super) fn kill(&mut self, mut pair: Protected, name: &'static str) -> Result<Protected, DemoError> {
        self.check()?;
        self.forget_gaps();
        let (victim, heir) = (pair.primary.name(), pair.standby.name());
        let last_word = freeze_with_output(&mut pair.primary)?;
        let begun = Instant::now();
        let survivor = pair.kill_primary()?;
        self.screen.say(
            Tone::Bad,
            "SIGKILL",
            format!("{victim} is dead in mid-stream, with {} that nobody saw", unseen(&last_word)),
        );
        let alone = survivor.promote()?;
        let change = begun.elapsed();
        self.screen.say(
            Tone::Plain,
            "promote",
            format!("{heir} goes on from the last committed checkpoint: {}", millis(change)),
        );
        let silence = self.answers_again(name)?;
        self.alive(silence);
        let (pair, resync) = self.rejoin(alone)?;
        self.events.push(Event { name, change, silence, resync: Some(resync) });
        Ok(pair)
    }

    /// Has the primary hand over to the standby.
    pub(super) fn hand_over(&mut self, pair: Protected) -> Result<Protected, DemoError> {
        self.check()?;
        self.forget_gaps();
        let (from, to) = (pair.primary.name(), pair.standby.name());
        self.screen.say(Tone::Plain, "handover", format!("{from} is asked to hand the guest over to {to}"));
        let begun = Instant::now();
        let pair = pair.hand_over()?;
        let change = begun.elapsed();
        let silence = self.answers_again("the handover")?;
        self.alive(silence);
        self.protected(&pair, change);
        self.events.push(Event { name: "planned handover", change, silence, resync: None });
        Ok(pair)
    }

    /// Ends the client's work, compares what it was told with what is on the disk, and says how it went.
    pub(super) fn close(mut self, pair: Protected) -> Result<(), DemoError> {
        let Some((load, probe)) = self.client.take() else { return Ok(()) };
        let (address, counters) = (load.local_address(), probe.answers());
        load.finish();
        probe.finish();
        self.check()?;
        drop(pair);
        let recorded = self.site.disk().read(0)?;
        let acknowledged = self.witness.acknowledged(0);
        recorded.check(&acknowledged)?;
        self.verdict(address, acknowledged.len(), recorded.len(), counters);
        Ok(())
    }

    fn rejoin(&mut self, alone: Alone) -> Result<(Protected, Duration), DemoError> {
        let begun = Instant::now();
        let name = alone.primary.name().peer();
        self.screen.say(Tone::Plain, "restart", format!("{name} comes back with empty hands, as the standby"));
        let pair = alone.rejoin(&self.site, progress(&mut self.screen))?;
        let resync = begun.elapsed();
        self.protected(&pair, resync);
        self.check()?;
        Ok((pair, resync))
    }

    /// Waits until the client has had answers that were not on their way to it before. Returns the longest silence.
    fn answers_again(&mut self, event: &'static str) -> Result<Duration, DemoError> {
        let Some((load, _)) = &self.client else { return Ok(Duration::ZERO) };
        let begun = Instant::now();
        let goal = load.progress().answers() + 2 * WINDOW as u64;
        while load.progress().answers() < goal {
            self.check()?;
            if begun.elapsed() > PATIENCE {
                return Err(DemoError::Silent { seconds: PATIENCE.as_secs(), event });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(load.progress().take_longest_gap())
    }

    fn forget_gaps(&self) {
        if let Some((load, _)) = &self.client {
            // Asking forgets them.
            let _ = load.progress().take_longest_gap();
        }
    }

    /// Whether to go on.
    fn check(&self) -> Result<(), DemoError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(DemoError::Interrupted);
        }
        self.witness.take_violations().into_iter().next().map_or(Ok(()), |violation| Err(violation.into()))
    }

    fn alive(&mut self, silence: Duration) {
        self.screen.say(
            Tone::Good,
            "alive",
            format!("the same TCP connection goes on; longest silence {}", millis(silence)),
        );
    }

    fn protected(&mut self, pair: &Protected, after: Duration) {
        let (primary, standby) = (pair.primary.name(), pair.standby.name());
        let text = format!("{primary} runs the guest, {standby} holds it; in sync after {}", millis(after));
        self.screen.say(Tone::Good, "protected", text);
    }

    fn verdict(&mut self, address: SocketAddr, acknowledged: usize, on_disk: usize, counters: u64) {
        let screen = &mut self.screen;
        screen.line("");
        screen.line(&format!(
            "{:<20} {:>14} {:>16} {:>14}",
            "what happened", "other node", "longest silence", "in sync again"
        ));
        for Event { name, change, silence, resync } in &self.events {
            let resync = resync.map_or_else(|| "at once".to_owned(), millis);
            screen.line(&format!("{name:<20} {:>14} {:>16} {resync:>14}", millis(*change), millis(*silence)));
        }
        screen.line("");
        for (what, result) in [
            ("entries acknowledged", acknowledged.to_string()),
            ("of these on the disk exactly once", acknowledged.to_string()),
            ("entries on the disk", on_disk.to_string()),
            ("counters by UDP, none twice", counters.to_string()),
            ("TCP connection", format!("{address}, one for it all")),
        ] {
            screen.line(&format!("{what:<34} {result}"));
        }
        screen.line("");
        screen.say(Tone::Good, "VERDICT", "nothing was lost, and nobody could tell");
    }
}

/// Stops a primary at a moment when it holds output, so that there is something to lose. Returns what it was doing.
fn freeze_with_output(primary: &mut Node) -> Result<Evidence, SiteError> {
    let mut looks = 0;
    loop {
        primary.freeze()?;
        let evidence = Evidence::read(primary.control()).unwrap_or_default();
        looks += 1;
        if evidence.held_frames + evidence.held_writes > 0 || looks == LOOKS {
            return Ok(evidence);
        }
        primary.thaw()?;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Shows a resync as it goes.
fn progress(screen: &mut Screen) -> impl FnMut(&Status) {
    |status| {
        if let Some(sync) = &status.sync {
            let (done, total) = (sync.done_pages, sync.total_pages);
            screen.live(|| format!("          {} {done} of {total} pages, round {}", bar(done, total), sync.round));
        }
    }
}

/// What there is to see at one moment.
struct Sample {
    at: Instant,
    entries: usize,
    status: Status,
}

impl Sample {
    fn take(pair: &Protected, witness: &Witness) -> Result<Sample, SiteError> {
        Ok(Sample { at: Instant::now(), entries: witness.entries(), status: pair.primary.status()? })
    }

    fn checkpoints(&self) -> u64 {
        self.status.checkpoints.map_or(0, |checkpoints| checkpoints.count)
    }
}

/// The line that changes while the client works. Rates are since `start`.
fn live(start: &Sample, now: &Sample) -> String {
    let seconds = (now.at - start.at).as_secs_f64().max(0.001);
    let mut text = format!("{:<5}", now.status.node);
    if let Some(Checkpoints { dirty_pages, commit_us, .. }) = &now.status.checkpoints {
        let epochs = (now.checkpoints() - start.checkpoints()) as f64 / seconds;
        let commit_ms = commit_us.p50 as f64 / 1e3;
        text += &format!(" {epochs:5.0} epochs/s  {:4} dirty pages  commit {commit_ms:5.2} ms ", dirty_pages.p50);
    }
    if let Some(Gate { held_frames, held_writes, .. }) = &now.status.gate {
        text += &format!(" held {held_frames:2} frames {held_writes:2} writes ");
    }
    let entries = (now.entries - start.entries) as f64 / seconds;
    text + &format!(" entries {:6} {entries:5.0}/s", now.entries)
}

/// What a dead primary had not released.
fn unseen(last_word: &Evidence) -> String {
    let Evidence { held_frames, held_writes, held_console, .. } = last_word;
    format!("{held_frames} frames, {held_writes} disk writes and {held_console} console outputs held")
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
