//! Where the bytes of the serial port go, and where those for the guest come from.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::pty::Pty;
use super::{Sink, SinkError};

/// What is kept for a reader that is slow. Of more, the oldest is lost.
const UNREAD_BYTES_MAX: usize = 64 << 10;
/// Only root reads what the guest says and types to it.
const MODE: u32 = 0o600;

/// The open end of a [`Sink`]. Nothing here blocks.
pub(super) struct Outlet {
    kind: Kind,
    /// What descriptors there are changes as clients come and go; the event loop polls this one, which never changes.
    epoll: Epoll,
    unread: VecDeque<u8>,
    pub(super) written_bytes: u64,
    pub(super) lost_bytes: u64,
}

enum Kind {
    None,
    File(File),
    Pty(Pty),
    Socket { listener: Listener, client: Option<UnixStream> },
}

/// A listening socket that takes its file with it.
struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode, to tell the file from a later one at the same path.
    file: Option<(u64, u64)>,
}

impl Outlet {
    pub(super) fn open(sink: &Sink) -> Result<Outlet, SinkError> {
        let epoll = Epoll::new().map_err(|source| SinkError::Poll { source })?;
        let kind = match sink {
            Sink::None => Kind::None,
            Sink::File(path) => Kind::File(open_file(path)?),
            Sink::Pty(path) => Kind::Pty(Pty::open(path)?),
            Sink::Socket(path) => Kind::Socket { listener: Listener::bind(path)?, client: None },
        };
        let outlet = Outlet { kind, epoll, unread: VecDeque::new(), written_bytes: 0, lost_bytes: 0 };
        match &outlet.kind {
            Kind::Pty(pty) => outlet.watch(pty.fd()),
            Kind::Socket { listener, .. } => outlet.watch(listener.socket.as_raw_fd()),
            Kind::None | Kind::File(_) => Ok(()),
        }
        .map_err(|source| SinkError::Poll { source })?;
        Ok(outlet)
    }

    /// Whether a sink can be opened; nothing is left behind.
    pub(super) fn check(sink: &Sink) -> Result<(), SinkError> {
        let is_new = |path: &&PathBuf| std::fs::symlink_metadata(path).is_err();
        let made = if let Sink::File(path) = sink { Some(path).filter(is_new) } else { None };
        Outlet::open(sink)?;
        match made {
            Some(path) => std::fs::remove_file(path).map_err(|source| SinkError::File { path: path.clone(), source }),
            None => Ok(()),
        }
    }

    /// Readable when there is something to do here.
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn watch(&self, fd: RawFd) -> io::Result<()> {
        let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, fd as u64))
    }

    /// Sends bytes, or keeps them for a reader that is slow.
    pub(super) fn write(&mut self, bytes: impl Iterator<Item = u8>) {
        let before = self.unread.len();
        self.unread.extend(bytes);
        match &self.kind {
            Kind::None => {
                self.written_bytes += self.unread.len() as u64;
                self.unread.clear();
            }
            // Nobody is there: as on a serial line without a cable.
            Kind::Socket { client: None, .. } => {
                self.lost_bytes += (self.unread.len() - before) as u64;
                self.unread.truncate(before);
            }
            _ => self.flush(),
        }
        let excess = self.unread.len().saturating_sub(UNREAD_BYTES_MAX);
        self.unread.drain(..excess);
        self.lost_bytes += excess as u64;
    }

    /// Does what became possible: takes a client, sends what is kept.
    pub(super) fn service(&mut self) {
        let mut events = [EpollEvent::default(); 8];
        // Only empties the list of what is ready; everything is then tried until it would block.
        while self.epoll.wait(0, &mut events).is_ok_and(|count| count == events.len()) {}
        self.accept();
        self.flush();
    }

    fn accept(&mut self) {
        let Kind::Socket { listener, client } = &mut self.kind else { return };
        let mut accepted = None;
        // An error other than WouldBlock is one client's trouble, or passes.
        while let Ok((stream, _)) = listener.socket.accept() {
            // One at a time: the next one is hung up on.
            if client.as_ref().is_none_or(is_gone) && accepted.is_none() && stream.set_nonblocking(true).is_ok() {
                accepted = Some(stream);
            }
        }
        if let Some(stream) = accepted {
            self.hang_up();
            self.serve(stream);
        }
    }

    fn serve(&mut self, stream: UnixStream) {
        match self.watch(stream.as_raw_fd()) {
            Ok(()) => {
                if let Kind::Socket { client, .. } = &mut self.kind {
                    *client = Some(stream);
                }
            }
            Err(error) => log::warn!("serial port: client cannot be served: {error}"),
        }
    }

    fn flush(&mut self) {
        while !self.unread.is_empty() {
            match self.kind.write(self.unread.as_slices().0) {
                Ok(count) if count > 0 => {
                    self.unread.drain(..count);
                    self.written_bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                failed => {
                    if let (Err(error), Kind::File(_)) = (failed, &self.kind) {
                        log::warn!("serial port: output is lost: {error}");
                    }
                    self.lost_bytes += self.unread.len() as u64;
                    self.unread.clear();
                    self.hang_up();
                    return;
                }
            }
        }
    }

    /// Reads input for the guest. 0: there is none now.
    pub(super) fn read(&mut self, into: &mut [u8]) -> usize {
        loop {
            match self.kind.read(into) {
                Ok(0) => self.hang_up(),
                Ok(count) => return count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.hang_up(),
            }
            return 0;
        }
    }

    /// Lets go of a client; closing its descriptor takes it out of the epoll set.
    fn hang_up(&mut self) {
        if let Kind::Socket { client, .. } = &mut self.kind {
            *client = None;
            self.lost_bytes += self.unread.len() as u64;
            self.unread.clear();
        }
    }
}

impl Kind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Kind::File(file) => file.write(bytes),
            Kind::Pty(pty) => pty.write(bytes),
            // MSG_NOSIGNAL is what std's write to a socket does.
            Kind::Socket { client: Some(stream), .. } => stream.write(bytes),
            Kind::None | Kind::Socket { client: None, .. } => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Kind::Pty(pty) => pty.read(into),
            Kind::Socket { client: Some(stream), .. } => stream.read(into),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Whether a client has closed its end, seen without taking its input.
fn is_gone(stream: &UnixStream) -> bool {
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: `poll` is one valid pollfd; a timeout of 0 does not block.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0 && poll.revents & (libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR) != 0
}

fn open_file(path: &Path) -> Result<File, SinkError> {
    File::options()
        .append(true)
        .create(true)
        .mode(MODE)
        // For a FIFO: neither open nor write may wait for its reader.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|source| SinkError::File { path: path.to_owned(), source })
}

impl Listener {
    fn bind(path: &Path) -> Result<Listener, SinkError> {
        let failed = |source| SinkError::Socket { path: path.to_owned(), source };
        remove_stale(path)?;
        let socket = UnixListener::bind(path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let file = std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
        let listener = Listener { socket, path: path.to_owned(), file };
        std::fs::set_permissions(path, PermissionsExt::from_mode(MODE)).map_err(failed)?;
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let now = std::fs::symlink_metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        if now.is_some() && now == self.file {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket on which nobody listens any more, and nothing else.
fn remove_stale(path: &Path) -> Result<(), SinkError> {
    let Ok(file) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        return Err(SinkError::Occupied { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| SinkError::Socket { path: path.to_owned(), source })
        }
        _ => Err(SinkError::InUse { path: path.to_owned() }),
    }
}
