//! A pseudo-terminal with a name that stays.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::SinkError;

/// Where terminals of the kernel live.
const TERMINALS: &str = "/dev/pts/";

/// The master of a pseudo-terminal, and a symbolic link to the slave.
pub(super) struct Pty {
    master: File,
    /// Kept open, so that the master does not hang up whenever nobody else has the terminal open.
    _slave: File,
    terminal: PathBuf,
    link: PathBuf,
}

impl Pty {
    pub(super) fn open(link: &Path) -> Result<Pty, SinkError> {
        let failed = |source| SinkError::Pty { path: link.to_owned(), source };
        let (master, terminal) = open_master().map_err(failed)?;
        let slave = File::options().read(true).write(true).open(&terminal).map_err(failed)?;
        set_raw(&slave).map_err(failed)?;
        place(link, &terminal)?;
        Ok(Pty { master, _slave: slave, terminal, link: link.to_owned() })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.master.as_raw_fd()
    }

    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.master).read(into)
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.master).write(bytes)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if std::fs::read_link(&self.link).is_ok_and(|terminal| terminal == self.terminal) {
            let _ = std::fs::remove_file(&self.link);
        }
    }
}

/// A new pseudo-terminal: its master, which does not block, and the path of its slave.
fn open_master() -> io::Result<(File, PathBuf)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: takes no pointer.
    let fd = check(unsafe { libc::posix_openpt(flags) })?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let master = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: takes no pointer. (grantpt has nothing to do on Linux: devpts gives the terminal to its opener.)
    check(unsafe { libc::unlockpt(fd) })?;
    let mut name = [0u8; 64];
    // SAFETY: `name` has room for the bytes that are announced; the result is NUL-terminated.
    match unsafe { libc::ptsname_r(fd, name.as_mut_ptr().cast(), name.len()) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
    Ok((master, PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()))))
}

/// Bytes pass as they are: no echo, no line editing.
fn set_raw(terminal: &File) -> io::Result<()> {
    // SAFETY: an all-zero `termios` is a valid one, and is overwritten.
    let mut mode: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `mode` is a `termios` to be written.
    check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut mode) })?;
    // SAFETY: `mode` is a `termios` to be changed.
    unsafe { libc::cfmakeraw(&raw mut mode) };
    // SAFETY: `mode` is a `termios` to be read.
    check(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const mode) })?;
    Ok(())
}

/// Makes `link` point to the terminal, in place of a link to one that was left behind.
fn place(link: &Path, terminal: &Path) -> Result<(), SinkError> {
    let failed = |source| SinkError::Pty { path: link.to_owned(), source };
    if std::fs::symlink_metadata(link).is_ok() {
        if !std::fs::read_link(link).is_ok_and(|old| old.as_os_str().as_bytes().starts_with(TERMINALS.as_bytes())) {
            return Err(SinkError::Occupied { path: link.to_owned() });
        }
        std::fs::remove_file(link).map_err(failed)?;
    }
    std::os::unix::fs::symlink(terminal, link).map_err(failed)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
