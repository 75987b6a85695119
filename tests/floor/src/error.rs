//! Why a floor cannot be measured.

use std::fmt;
use std::io;

/// A system call that failed, or a guest that did not do what it was made for.
#[derive(Debug)]
pub(crate) struct Error {
    what: &'static str,
    source: io::Error,
}

impl Error {
    /// For a system call that has just failed.
    pub(crate) fn last(what: &'static str) -> Error {
        Error { what, source: io::Error::last_os_error() }
    }

    /// For something that is not as it must be.
    pub(crate) fn other(what: &'static str, why: String) -> Error {
        Error { what, source: io::Error::other(why) }
    }

    /// For use with `map_err`.
    pub(crate) fn of(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error { what, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
