//! The table: figures with the floors beside them, and whether what was aimed at is reached.

use std::fmt::Write;

use super::floor::Floors;

/// What a figure is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) enum Unit {
    #[serde(rename = "us")]
    Us,
    #[serde(rename = "GB/s")]
    GbPerSecond,
    #[serde(rename = "MiB")]
    Mib,
    #[serde(rename = "/s")]
    PerSecond,
    #[serde(rename = "%")]
    Percent,
    #[serde(rename = "pages")]
    Pages,
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    /// At most so many times the floor.
    TimesAtMost(f64),
    /// At least so many times the floor.
    TimesAtLeast(f64),
    /// At most this, whatever the floor.
    AtMost(f64),
}

/// A line of the table.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Row {
    /// The title of its section.
    pub(super) section: String,
    pub(super) what: String,
    pub(super) unit: Unit,
    /// The figure; the median if there were samples.
    pub(super) figure: f64,
    /// The 99th percentile.
    pub(super) p99: Option<f64>,
    pub(super) floor: Option<f64>,
    pub(super) target: Option<Target>,
}

impl Row {
    /// A single figure.
    pub(super) fn new(what: impl Into<String>, unit: Unit, figure: f64) -> Row {
        Row { section: String::new(), what: what.into(), unit, figure, p99: None, floor: None, target: None }
    }

    /// The median and the 99th percentile of samples; not a number, if there are none.
    pub(super) fn of_samples(what: impl Into<String>, unit: Unit, mut samples: Vec<f64>) -> Row {
        samples.sort_unstable_by(f64::total_cmp);
        // The nearest rank: the least sample that so many percent do not exceed.
        let at = |percent: usize| samples.get((samples.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Row { p99: at(99), ..Row::new(what, unit, at(50).unwrap_or(f64::NAN)) }
    }

    /// The same with what it is to be measured against, if that is known.
    pub(super) fn beside(self, floor: Option<f64>) -> Row {
        Row { floor, ..self }
    }

    /// The same with an aim.
    pub(super) fn aiming(self, target: Target) -> Row {
        Row { target: Some(target), ..self }
    }

    fn ratio(&self) -> Option<f64> {
        self.floor.filter(|floor| *floor > 0.0).map(|floor| self.figure / floor)
    }

    /// Whether it is what it was to be; `None` if nothing was said, or there is no floor.
    pub(super) fn met(&self) -> Option<bool> {
        Some(match self.target? {
            Target::TimesAtMost(limit) => self.ratio()? <= limit,
            Target::TimesAtLeast(limit) => self.ratio()? >= limit,
            Target::AtMost(limit) => self.figure <= limit,
        })
    }

    fn number(&self, value: f64) -> String {
        match self.unit {
            Unit::GbPerSecond | Unit::Percent => format!("{value:.2}"),
            Unit::Mib => format!("{value:.1}"),
            Unit::Us | Unit::PerSecond | Unit::Pages => format!("{value:.0}"),
        }
    }

    fn aim(&self) -> String {
        match self.target {
            None => String::new(),
            Some(Target::TimesAtMost(limit)) => format!("≤ {limit} ×"),
            Some(Target::TimesAtLeast(limit)) => format!("≥ {limit} ×"),
            Some(Target::AtMost(limit)) => format!("≤ {}", self.number(limit)),
        }
    }
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Unit::Us => "µs",
            Unit::GbPerSecond => "GB/s",
            Unit::Mib => "MiB",
            Unit::PerSecond => "/s",
            Unit::Percent => "%",
            Unit::Pages => "pages",
        }
    }
}

/// The floors that others are made of, and the table's columns.
pub(super) fn heading(floors: &Floors) -> String {
    format!(
        "floors of this run (`kemari-floor` prints all of them, with its calls): kick {:.0} µs, re-entry {:.0} µs, state read \
         {:.0} µs ({} MSRs),\n  round trip {:.0} µs, stream {:.1} GB/s, memcpy {:.1} GB/s\n\n\
         {:44} {:>9} {:>9}       {:>9} {:>7}  {:8}\n",
        floors.kick_us,
        floors.reentry_us,
        floors.state_read_us,
        floors.msrs,
        floors.small_round_trip_us(),
        floors.stream_gb_s,
        floors.memcpy_gb_s,
        "",
        "p50",
        "p99",
        "floor",
        "ratio",
        "target",
    )
}

/// One part of the table.
pub(super) fn section(title: &str, rows: &[Row]) -> String {
    let mut text = format!("{title}\n");
    for row in rows {
        let optional = |value: Option<f64>| value.map(|value| row.number(value)).unwrap_or_default();
        let ratio = row.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let verdict = match row.met() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        let line = format!(
            "  {:42} {:>9} {:>9} {:5} {:>9} {:>7}  {:8} {verdict}",
            row.what,
            row.number(row.figure),
            optional(row.p99),
            row.unit.text(),
            optional(row.floor),
            ratio,
            row.aim(),
        );
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// What is under the table.
pub(super) fn verdict(rows: &[Row]) -> String {
    let verdicts: Vec<bool> = rows.iter().filter_map(Row::met).collect();
    let met = verdicts.iter().filter(|met| **met).count();
    format!("\n{met} of {} targets met\n", verdicts.len())
}

/// Everything as one line of JSON.
pub(super) fn json(floors: &Floors, rows: &[Row]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let mut value = serde_json::json!(row);
            value["ratio"] = row.ratio().into();
            value["met"] = row.met().into();
            value
        })
        .collect();
    format!("{}\n", serde_json::json!({ "floors": floors, "rows": rows }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_or_missed_by_the_ratio() {
        let row = |figure, target| Row::new("", Unit::Us, figure).beside(Some(10.0)).aiming(target).met();
        assert_eq!(row(30.0, Target::TimesAtMost(3.0)), Some(true));
        assert_eq!(row(30.1, Target::TimesAtMost(3.0)), Some(false));
        assert_eq!(row(4.0, Target::TimesAtLeast(0.4)), Some(true));
        assert_eq!(row(3.9, Target::TimesAtLeast(0.4)), Some(false));
        assert_eq!(row(5.0, Target::AtMost(5.0)), Some(true));
        assert_eq!(Row::new("", Unit::Us, 1.0).aiming(Target::TimesAtMost(3.0)).met(), None);
    }

    #[test]
    fn percentiles_are_samples() {
        let row = Row::of_samples("", Unit::Us, (0..=100).rev().map(f64::from).collect());
        assert_eq!((row.figure, row.p99), (50.0, Some(99.0)));
        let row = Row::of_samples("", Unit::Us, vec![3.0, 1.0, 2.0]);
        assert_eq!((row.figure, row.p99), (2.0, Some(3.0)));
        assert!(Row::of_samples("", Unit::Us, Vec::new()).figure.is_nan());
    }

    #[test]
    fn a_line_says_it_all() {
        let row = Row::new("commit", Unit::Us, 250.0).beside(Some(100.0)).aiming(Target::TimesAtMost(3.0));
        let text = section("checkpoints", &[row]);
        for part in ["checkpoints", "commit", "250 ", "100", "2.50", "≤ 3 ×", "met"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
