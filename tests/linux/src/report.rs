//! What the guest says of its clocks, and what must be true of it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A timer of a busy guest in an emulated host may be so late.
const TIMER_LATE_MAX_NS: i64 = 1_000_000_000;
/// What a guest loses besides the outage: what was not committed, and the time until it runs.
const LOST_BESIDES: Duration = Duration::from_secs(2);

/// The guest's answer, as one line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// CPUs there are.
    pub(crate) cpus: u64,
    /// Those that looked within the last second.
    pub(crate) cpus_looking: u64,
    pub(crate) looks: u64,
    pub(crate) tsc_back: u64,
    pub(crate) monotonic_back: u64,
    /// The longest step of a CPU until the mark.
    pub(crate) longest_before_ns: u64,
    /// And since.
    pub(crate) longest_ns: u64,
    /// And since, by the TSC.
    pub(crate) longest_by_tsc_ns: u64,
    /// How late the timer was that was armed at the mark; none while it is pending.
    pub(crate) timer_late_ns: Option<i64>,
    pub(crate) realtime_ns: u64,
}

/// How far the guest's CLOCK_REALTIME is behind the host's: it was read between question and answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Behind {
    pub(crate) min_ns: i64,
    pub(crate) max_ns: i64,
}

impl Behind {
    pub(crate) fn new(asked_ns: u64, guest_ns: u64, answered_ns: u64) -> Behind {
        let behind = |host_ns: u64| host_ns.wrapping_sub(guest_ns).cast_signed();
        Behind { min_ns: behind(asked_ns), max_ns: behind(answered_ns) }
    }

    /// By how much it has fallen behind since.
    fn since(self, before: Behind) -> Behind {
        Behind { min_ns: self.min_ns - before.max_ns, max_ns: self.max_ns - before.min_ns }
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ms", self.min_ns / 1_000_000, self.max_ns / 1_000_000)
    }
}

/// What must be true of a guest's clocks after an outage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contract {
    /// All of which look.
    pub(crate) cpus: u64,
    pub(crate) outage: Duration,
}

impl Contract {
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn holds(&self, report: &Report, marked: Behind, now: Behind) -> Result<(), Error> {
        let broken = |what: String| Err(Error::Clock { what });
        if (report.cpus, report.cpus_looking) != (self.cpus, self.cpus) {
            return broken(format!(
                "of {} CPUs {} looked within the last second, not {}",
                report.cpus, report.cpus_looking, self.cpus
            ));
        }
        for (name, back) in [("TSC", report.tsc_back), ("CLOCK_MONOTONIC", report.monotonic_back)] {
            if back > 0 {
                return broken(format!("the {name} went back {back} times"));
            }
        }
        // A quarter of the outage over what was usual before: a jump by the outage is far beyond, a guest that waits for its turn is not.
        let limit_ns = report.longest_before_ns + (self.outage / 4).as_nanos() as u64;
        for (name, step_ns) in [("TSC", report.longest_by_tsc_ns), ("CLOCK_MONOTONIC", report.longest_ns)] {
            if step_ns > limit_ns {
                let (step_ms, limit_ms) = (step_ns / 1_000_000, limit_ns / 1_000_000);
                return broken(format!("the {name} made a step of {step_ms} ms, where {limit_ms} ms is the most"));
            }
        }
        match report.timer_late_ns {
            None => return broken("the timer that was armed before the outage has not expired".to_owned()),
            Some(late_ns) if !(0..TIMER_LATE_MAX_NS).contains(&late_ns) => {
                return broken(format!("the timer that was armed before the outage was {late_ns} ns late"));
            }
            Some(_) => {}
        }
        self.realtime_is_right(marked, now)
    }

    fn realtime_is_right(&self, marked: Behind, now: Behind) -> Result<(), Error> {
        let lost = now.since(marked);
        let most = (self.outage + LOST_BESIDES).as_nanos() as i64;
        if lost.max_ns >= self.outage.as_nanos() as i64 && lost.min_ns <= most {
            return Ok(());
        }
        Err(Error::Clock {
            what: format!("CLOCK_REALTIME fell behind by {lost}, where the outage was {:?}", self.outage),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;
    const OUTAGE: Duration = Duration::from_secs(4);

    type Breach = fn(&mut Report);

    fn behind(min_ms: i64, max_ms: i64) -> Behind {
        Behind { min_ns: min_ms * MS, max_ns: max_ms * MS }
    }

    fn good() -> Report {
        Report { cpus: 2, cpus_looking: 2, timer_late_ns: Some(0), longest_before_ns: 100_000_000, ..Report::default() }
    }

    fn verdict(report: &Report, now: Behind) -> Result<(), Error> {
        Contract { cpus: 2, outage: OUTAGE }.holds(report, behind(300, 400), now)
    }

    #[test]
    fn a_right_clock_is_right() {
        assert!(verdict(&good(), behind(4400, 4500)).is_ok());
    }

    #[test]
    fn whatever_is_wrong_is_said() {
        let breaches: [(&str, Breach); 7] = [
            ("1 looked", |report| report.cpus_looking = 1),
            ("TSC went back", |report| report.tsc_back = 1),
            ("CLOCK_MONOTONIC went back", |report| report.monotonic_back = 1),
            ("CLOCK_MONOTONIC made a step", |report| report.longest_ns = 1_200_000_000),
            ("TSC made a step", |report| report.longest_by_tsc_ns = 1_200_000_000),
            ("not expired", |report| report.timer_late_ns = None),
            ("late", |report| report.timer_late_ns = Some(-1)),
        ];
        for (said, breach) in breaches {
            let mut report = good();
            breach(&mut report);
            let error = verdict(&report, behind(4400, 4500)).expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn realtime_is_behind_by_the_outage_neither_less_nor_more() {
        for now in [behind(300, 400), behind(7000, 7100)] {
            assert!(verdict(&good(), now).is_err(), "{now}");
        }
    }

    #[test]
    fn the_guest_looked_between_question_and_answer() {
        assert_eq!(Behind::new(1000, 700, 1100), Behind { min_ns: 300, max_ns: 400 });
        assert_eq!(Behind::new(1000, 1200, 1100), Behind { min_ns: -200, max_ns: -100 });
    }
}
