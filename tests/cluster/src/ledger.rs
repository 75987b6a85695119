//! Clients outside of the cluster, and what they can say against it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kemari_site::{Load, LoadOptions, Probe, Witness};

use crate::cluster::Cluster;
use crate::error::ClusterError;

/// Requests a client keeps outstanding.
const WINDOW: usize = 4;
/// Its rest after each answer: the ledger is finite.
const PAUSE: Duration = Duration::from_millis(5);
/// How long an answer may take: longer than fencing does.
const PATIENCE: Duration = Duration::from_secs(90);
const TICK: Duration = Duration::from_millis(1);

/// The clients of one boot of the guest: one that appends to its ledger over a single TCP connection, and one that asks for
/// its counter by UDP.
pub(crate) struct Ledger {
    witness: Arc<Witness>,
    load: Load,
    probe: Probe,
}

impl Ledger {
    /// Connects and begins.
    pub(crate) fn open(client: u32) -> Result<Ledger, ClusterError> {
        let witness = Arc::new(Witness::default());
        let options = LoadOptions { client, window: WINDOW, pause: PAUSE, patience: PATIENCE };
        let load = Load::start(options, Arc::clone(&witness))?;
        let probe = Probe::start(Duration::from_millis(1), Arc::clone(&witness));
        Ok(Ledger { witness, load, probe })
    }

    /// Measures the longest silence from now on, as the UDP client hears it.
    pub(crate) fn begin_measure(&self) -> Outage<'_> {
        let _ = self.probe.progress().take_longest_gap();
        let _ = self.take_connection_gap();
        Outage { probe: &self.probe, begun: Instant::now(), answers: self.probe.answers() }
    }

    /// The longest time without an answer on the TCP connection, whose host waits before it sends again what was lost, since this was
    /// asked last or a measure was begun.
    pub(crate) fn take_connection_gap(&self) -> Duration {
        self.load.progress().take_longest_gap()
    }

    /// Waits until the guest answers both clients again and again.
    pub(crate) fn wait_for_answers(&self, limit: Duration) -> Result<(), ClusterError> {
        self.wait_for_more(5, limit)
    }

    /// Waits until the guest answers each of them once: its next answer is what an event ends with.
    pub(crate) fn wait_for_an_answer(&self, limit: Duration) -> Result<(), ClusterError> {
        self.wait_for_more(1, limit)
    }

    fn wait_for_more(&self, more: u32, limit: Duration) -> Result<(), ClusterError> {
        let (begun, entries, answers) = (Instant::now(), self.witness.entries(), self.probe.answers());
        while self.witness.entries() < entries + more as usize || self.probe.answers() < answers + u64::from(more) {
            self.look()?;
            if begun.elapsed() > limit {
                let what = "for the guest to answer".to_owned();
                return Err(ClusterError::TooLong { what, seconds: limit.as_secs() });
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Whether the guest answers at all within a time.
    pub(crate) fn is_silent_for(&self, time: Duration) -> bool {
        // What was on its way arrives first.
        std::thread::sleep(Duration::from_millis(100));
        let answers = self.probe.answers();
        std::thread::sleep(time);
        self.probe.answers() == answers
    }

    /// Whether anything is wrong so far.
    fn look(&self) -> Result<(), ClusterError> {
        if self.witness.has_violations() {
            return Err(ClusterError::Violated(self.witness.take_violations()));
        }
        Ok(())
    }

    /// Ends the clients and compares what they were told with what is on the disk.
    pub(crate) fn close(self, cluster: &Cluster) -> Result<usize, ClusterError> {
        self.probe.finish();
        self.load.finish();
        check(&self.witness, cluster)
    }

    /// The same where the guest is gone and nothing more will be answered.
    pub(crate) fn abandon(self, cluster: &Cluster) -> Result<usize, ClusterError> {
        self.load.abort();
        self.probe.finish();
        // That its connection ended is what it was to see.
        let _ = self.witness.take_violations();
        check(&self.witness, cluster)
    }
}

fn check(witness: &Witness, cluster: &Cluster) -> Result<usize, ClusterError> {
    let violations = witness.take_violations();
    if !violations.is_empty() {
        return Err(ClusterError::Violated(violations));
    }
    let acknowledged = witness.acknowledged(0);
    cluster.disk().read(0)?.check(&acknowledged)?;
    Ok(acknowledged.len())
}

/// A silence of the guest being measured.
pub(crate) struct Outage<'a> {
    probe: &'a Probe,
    begun: Instant,
    answers: u64,
}

impl Outage<'_> {
    /// The longest silence since the measure began, once the guest has answered 50 times since `settled` became true.
    pub(crate) fn end(
        self,
        limit: Duration,
        mut settled: impl FnMut() -> Result<bool, ClusterError>,
    ) -> Result<Duration, ClusterError> {
        let too_long = |what: &str| ClusterError::TooLong { what: what.to_owned(), seconds: limit.as_secs() };
        while !settled()? {
            if self.begun.elapsed() > limit {
                return Err(too_long("for the cluster to act"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let answers = self.probe.answers().max(self.answers);
        while self.probe.answers() < answers + 50 {
            if self.begun.elapsed() > limit {
                return Err(too_long("for the guest to answer again"));
            }
            std::thread::sleep(TICK);
        }
        Ok(self.probe.progress().take_longest_gap())
    }
}
