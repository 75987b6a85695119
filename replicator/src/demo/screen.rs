//! What the demo shows: lines that stay, and below them one that changes, where there is a terminal.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the changing line is drawn on a terminal, and how often it is printed elsewhere.
const REDRAW: Duration = Duration::from_millis(100);
const REPRINT: Duration = Duration::from_secs(1);
/// Cells of a progress bar.
const CELLS: u64 = 32;

/// How a line is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Like any other.
    Plain,
    /// Something is as it should be.
    Good,
    /// Something dies, or is lost.
    Bad,
}

/// The terminal, or what stands for it.
#[derive(Debug)]
pub(super) struct Screen {
    begun: Instant,
    terminal: bool,
    live_drawn: Option<Instant>,
}

impl Screen {
    /// A screen on stdout. Its clock starts now.
    pub(super) fn new() -> Screen {
        Screen { begun: Instant::now(), terminal: io::stdout().is_terminal(), live_drawn: None }
    }

    /// A line that stays, with the time and one word for what it is about.
    pub(super) fn say(&mut self, tone: Tone, word: &str, text: impl Display) {
        let time = self.begun.elapsed().as_secs_f64();
        let (on, off) = match (self.terminal, tone) {
            (false, _) | (_, Tone::Plain) => ("", ""),
            (true, Tone::Good) => ("\x1b[1;32m", "\x1b[0m"),
            (true, Tone::Bad) => ("\x1b[1;31m", "\x1b[0m"),
        };
        self.line(&format!("{time:6.1} s  {on}{word:<10}{off} {text}"));
    }

    /// A line that stays, as it is.
    pub(super) fn line(&mut self, text: &str) {
        let clear = if self.terminal && self.live_drawn.take().is_some() { "\r\x1b[K" } else { "" };
        put(&format!("{clear}{text}\n"));
    }

    /// The line that changes. Asked for its text only if it is time to show it.
    pub(super) fn live(&mut self, text: impl FnOnce() -> String) {
        let interval = if self.terminal { REDRAW } else { REPRINT };
        if self.live_drawn.is_some_and(|drawn| drawn.elapsed() < interval) {
            return;
        }
        self.live_drawn = Some(Instant::now());
        let text = text();
        // Without wrapping: a line that is too long would not be overwritten whole.
        put(&if self.terminal { format!("\r\x1b[?7l{text}\x1b[K\x1b[?7h") } else { format!("{text}\n") });
    }

    /// Ends the changing line.
    pub(super) fn settle(&mut self) {
        if self.terminal && self.live_drawn.is_some() {
            put("\n");
        }
        self.live_drawn = None;
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.settle();
    }
}

/// A bar for `done` of `total`.
pub(super) fn bar(done: u64, total: u64) -> String {
    let full = (done * CELLS).checked_div(total).unwrap_or(0).min(CELLS) as usize;
    format!("[{}{}]", "█".repeat(full), "·".repeat(CELLS as usize - full))
}

fn put(text: &str) {
    let mut out = io::stdout().lock();
    // Nobody may be reading any more; the demo's verdict is its exit status, too.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_it_should_be() {
        let full = |done, total| bar(done, total).matches('█').count();
        assert_eq!([full(0, 100), full(50, 100), full(100, 100), full(200, 100), full(0, 0)], [0, 16, 32, 32, 0]);
    }
}
