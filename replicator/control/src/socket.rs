//! Unix sockets at which daemons are controlled: for root only, and of one daemon at a time.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// Connections that wait to be accepted: more than there are clients, so that a daemon that is stuck can still be connected to.
const BACKLOG: i32 = 128;

/// How long it may take to find out whether somebody listens.
const LOOK: Duration = Duration::from_secs(1);

/// Listens at `path`, mode 0600; a socket that a dead process left there is replaced. Does not block.
///
/// # Errors
/// Another process listens there, or it cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match connect(path, LOOK) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens at this path")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // The mode a unix socket gets at bind is that of its file descriptor (unix_bind in net/unix/af_unix.c), so that there is
    // no moment at which others may connect.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(OwnedFd::from(socket).into())
}

/// Connects to whoever listens at `path`. Neither this nor any write takes longer than `limit`.
///
/// # Errors
/// Nobody listens there, it is not for this user, or the listener is stuck and has no room for another connection.
pub fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    socket.set_write_timeout(Some(limit))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}
