//! A queue of one: what is newer takes the place of what was not read yet.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What waits in a mailbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mail<T> {
    /// Nothing came in time.
    Nothing,
    /// The newest.
    New(T),
    /// Nothing more will come.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<(Option<T>, bool)>,
    changed: Condvar,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Mailbox<T> {
        Mailbox { state: Mutex::new((None, false)), changed: Condvar::new() }
    }
}

impl<T> Mailbox<T> {
    /// Puts something in, in place of what is there.
    pub(crate) fn put(&self, mail: T) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(mail);
        self.changed.notify_one();
    }

    /// Nothing more will be put in.
    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_one();
    }

    /// Waits for mail. What was put in before the end is read before it.
    pub(crate) fn take(&self, limit: Duration) -> Mail<T> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, limit, |(mail, closed)| mail.is_none() && !*closed);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        match (state.0.take(), state.1) {
            (Some(mail), _) => Mail::New(mail),
            (None, true) => Mail::Closed,
            (None, false) => Mail::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_is_read_and_the_last_before_the_end() {
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.take(Duration::ZERO), Mail::Nothing);
        (0..1000).for_each(|number| mailbox.put(number));
        assert_eq!(mailbox.take(Duration::ZERO), Mail::New(999));
        mailbox.put(7);
        mailbox.close();
        assert_eq!(mailbox.take(Duration::from_secs(9)), Mail::New(7));
        assert_eq!(mailbox.take(Duration::from_secs(9)), Mail::Closed);
    }
}
