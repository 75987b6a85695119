//! What is before the text of a line: the record of `/dev/kmsg`, the time of dmesg, the date of syslog.

use std::time::Duration;

/// A line without what is before its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stamped<'a> {
    /// When, on some clock that goes on through the stream; none if the line does not say.
    pub(crate) at: Option<Duration>,
    /// The number of the record, of `/dev/kmsg` only.
    pub(crate) sequence: Option<u64>,
    /// Whether a program has written it, as everybody may who can open `/dev/kmsg`.
    pub(crate) by_program: bool,
    pub(crate) text: &'a str,
}

/// Longest date and host name before `kernel:`.
const SYSLOG_BYTES: usize = 100;
/// The lowest three bits of a record's first number are its priority, the rest its facility; that of the kernel is 0, and no
/// program can write it (`devkmsg_write` in kernel/printk/printk.c).
const FACILITY_SHIFT: u32 = 3;

/// Takes the stamp off a line, in whichever form it is.
pub(crate) fn stamped(line: &str) -> Stamped<'_> {
    if let Some(record) = kmsg(line) {
        return record;
    }
    let (date, rest) = match line.find("kernel:").filter(|at| *at < SYSLOG_BYTES) {
        Some(at) => (Some(&line[..at]), &line[at + "kernel:".len()..]),
        None => (None, line),
    };
    let (bracketed, text) = bracket(rest.trim_start());
    Stamped { at: bracketed.or_else(|| date.and_then(calendar)), sequence: None, by_program: false, text: text.trim() }
}

/// `6,1042,5781651,-;text`.
fn kmsg(line: &str) -> Option<Stamped<'_>> {
    let (head, text) = line.split_once(';')?;
    let mut numbers = head.split(',');
    let priority: u64 = numbers.next()?.parse().ok()?;
    let sequence = numbers.next()?.parse().ok()?;
    let at_us = numbers.next()?.parse().ok()?;
    Some(Stamped {
        at: Some(Duration::from_micros(at_us)),
        sequence: Some(sequence),
        by_program: priority >> FACILITY_SHIFT != 0,
        text: text.trim(),
    })
}

/// `[   12.345678] text`, `[Mon Oct  3 13:52:42 2022] text`, `[  +0.000001] text`; the last says nothing of when.
fn bracket(text: &str) -> (Option<Duration>, &str) {
    let Some((inside, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) else {
        return (None, text);
    };
    let inside = inside.trim();
    if inside.starts_with('+') {
        return (None, rest);
    }
    if let Some(at) = inside.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        return (Some(at), rest);
    }
    match calendar(inside) {
        Some(at) => (Some(at), rest),
        None => (None, text),
    }
}

/// A date without its year as a time that goes on through a stream: month, day and time of day are enough for that.
fn calendar(text: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_whitespace().skip_while(|word| !MONTHS.contains(word));
    let month = words.next().and_then(|word| MONTHS.iter().position(|month| *month == word))? as u64;
    let day: u64 = words.next()?.parse().ok().filter(|day| *day <= 31)?;
    let mut time = words.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|part| *part < 60));
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    Some(Duration::from_secs(((month * 31 + day) * 24 + hour) * 3600 + minute * 60 + second))
}
