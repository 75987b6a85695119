//! Where the log goes: to syslog if asked, to stderr otherwise (which is what systemd and containers collect).

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{LevelFilter, Log, Metadata, Record};
use syslog::{BasicLogger, Facility, Formatter3164};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// No syslog daemon.
    #[error("syslog: {0}; start a syslog daemon, or leave --syslog out")]
    Syslog(#[from] syslog::Error),
    /// A log is in use already.
    #[error("{0}")]
    Twice(#[from] log::SetLoggerError),
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, millis) = (since.as_secs(), since.subsec_millis());
        let line = format!(
            "{:02}:{:02}:{:02}.{millis:03}Z {:<5} {}\n",
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60,
            record.level(),
            record.args()
        );
        // Nothing is left to complain to if stderr is gone, and a guest must not die of it.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Starts the log of the program of that name. `KEMARI_LOG` may be `error`, `warn`, `info` (the default), `debug` or `trace`.
///
/// # Errors
/// Syslog is wanted, and there is none.
pub fn start(process: &str, syslog: bool) -> Result<(), LoggingError> {
    let level = std::env::var("KEMARI_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::Info);
    if syslog {
        let formatter = Formatter3164 {
            facility: Facility::LOG_DAEMON,
            hostname: None,
            process: process.to_owned(),
            pid: std::process::id(),
        };
        log::set_boxed_logger(Box::new(BasicLogger::new(syslog::unix(formatter)?)))?;
    } else {
        log::set_logger(&Stderr)?;
    }
    log::set_max_level(level);
    Ok(())
}
