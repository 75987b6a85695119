//! The guests of this host: whether they could leave it, and how often they are made safe while it is not well.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use kemari_control::{Client, ClientError, Replication, Reply, Request, Role};
use serde::Deserialize;

use super::mailbox::{Mail, Mailbox};
use crate::config::GuestsConfig;
use crate::health::Colour;
use crate::health::gate::Guest;

/// How often a host that is not well tells the replicators again: one may have been started meanwhile.
const AGAIN: Duration = Duration::from_secs(30);

/// What is read of a guest's configuration.
#[derive(Deserialize)]
struct File {
    guest: Option<GuestTable>,
    #[serde(default)]
    node: NodeTable,
    #[serde(default)]
    disk: Vec<DiskTable>,
}

#[derive(Deserialize)]
struct GuestTable {
    name: String,
}

#[derive(Default, Deserialize)]
struct NodeTable {
    control: Option<PathBuf>,
}

#[derive(Deserialize)]
struct DiskTable {
    path: PathBuf,
}

/// Every guest that has a configuration here, or a socket.
#[derive(Clone, Debug)]
pub(crate) struct Guests {
    config: GuestsConfig,
}

/// What is there of guests.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    sockets: BTreeSet<PathBuf>,
    disks: Vec<PathBuf>,
    /// Configurations that cannot be read: nobody knows how their guests are.
    unreadable: Vec<String>,
}

impl Guests {
    pub(crate) fn new(config: &GuestsConfig) -> Guests {
        Guests { config: config.clone() }
    }

    /// Files that the guests' disks are.
    pub(crate) fn disks(&self) -> Vec<PathBuf> {
        self.known().disks
    }

    fn known(&self) -> Known {
        let mut known = Known::default();
        for path in entries(&self.config.configs, "toml") {
            known.add(&path);
        }
        let is_socket = |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        known.sockets.extend(self.config.sockets.iter().cloned());
        known.sockets.extend(entries(&self.config.run, "sock").filter(is_socket));
        known.sockets.remove(&self.config.own);
        known
    }

    /// Asks each, all at once. One that does not answer, although something listens or is said to be there, is not known to be
    /// protected.
    pub(super) fn ask(&self) -> Vec<Guest> {
        let Known { sockets, unreadable, .. } = self.known();
        let mut guests: Vec<Guest> = unreadable.into_iter().map(unknown).collect();
        guests.extend(each(&sockets, ask).into_iter().flatten());
        guests
    }

    /// Has each do something, all at once: one that takes its time keeps nobody waiting. What one refuses, or does not
    /// understand, is no harm.
    fn order(&self, request: &Request) {
        each(&self.known().sockets, |socket| {
            match Client::connect(socket).and_then(|mut client| client.request(request)) {
                Ok(Reply::Refused { reason }) => log::debug!("{}: {reason}", socket.display()),
                Ok(_) => {}
                Err(error) => log::debug!("{error}"),
            }
        });
    }

    /// Paces the guests by the colours that come, until no more come.
    pub(crate) fn serve(&self, colours: &Arc<Mailbox<Colour>>) {
        let mut current = Colour::Green;
        loop {
            match colours.take(AGAIN) {
                Mail::New(colour) => {
                    let before = std::mem::replace(&mut current, colour);
                    if before == Colour::Green && colour == Colour::Green {
                        continue;
                    }
                    if colour == Colour::Red {
                        self.order(&Request::Checkpoint);
                    }
                    self.pace(colour);
                }
                Mail::Nothing if current > Colour::Green => self.pace(current),
                Mail::Nothing => {}
                Mail::Closed => {
                    return if current > Colour::Green {
                        self.pace(Colour::Green)
                    };
                }
            }
        }
    }

    fn pace(&self, colour: Colour) {
        let pace_ms = u64::try_from(self.config.pace.as_millis()).unwrap_or(u64::MAX);
        self.order(&Request::Pace { max_epoch_ms: (colour > Colour::Green).then_some(pace_ms) });
    }
}

impl Known {
    /// Adds what a configuration names. One of something else than a guest has no table of a guest.
    fn add(&mut self, path: &Path) {
        let read = fs::read_to_string(path).map_err(|error| error.to_string());
        match read.and_then(|text| toml::from_str(&text).map_err(|error| error.to_string())) {
            Ok(File { guest: Some(guest), node, disk }) => {
                let socket = node.control.unwrap_or_else(|| format!("/run/kemari/{}.sock", guest.name).into());
                self.sockets.insert(socket);
                self.disks.extend(disk.into_iter().map(|disk| disk.path));
            }
            Ok(File { guest: None, .. }) => {}
            Err(error) => {
                log::debug!("{}: {error}", path.display());
                self.unreadable.push(path.display().to_string());
            }
        }
    }
}

/// Files in a directory whose names end so; none if it is not there.
fn entries(directory: &Path, extension: &'static str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    entries.filter(move |path| path.extension().is_some_and(|found| found == extension))
}

/// Acts on each, in threads of their own.
fn each<T: Send>(sockets: &BTreeSet<PathBuf>, act: impl Fn(&Path) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = sockets.iter().map(|socket| scope.spawn(|| act(socket))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// A guest of which nothing is known but that it may be there.
fn unknown(name: String) -> Guest {
    Guest { name, runs_here: true, protected: false, peer: None }
}

/// None if nobody listens there.
fn ask(socket: &Path) -> Option<Guest> {
    let status = match Client::connect(socket) {
        Ok(mut client) => client.status(),
        Err(ClientError::Connect { source, .. })
            if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&source.kind()) =>
        {
            return None;
        }
        Err(error) => Err(error),
    };
    Some(match status {
        Ok(status) => Guest {
            name: status.guest,
            runs_here: status.role == Role::Primary,
            protected: status.replication == Replication::Protected,
            peer: status.peer,
        },
        Err(error) => {
            log::warn!("{error}");
            unknown(socket.file_stem()?.to_string_lossy().into_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn guests(directory: &Path) -> Guests {
        Guests::new(&GuestsConfig {
            configs: directory.to_owned(),
            sockets: vec!["/run/kemari/web.sock".into()],
            run: directory.to_owned(),
            own: directory.join("mce-monitor.sock"),
            pace: AGAIN,
        })
    }

    #[test]
    fn a_guest_s_socket_is_found_and_other_files_are_left_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &str| fs::write(path(name), text).expect("writable");
        write(
            "web.toml",
            "[guest]\nname = \"web\"\nmemory_mib = 64\n[[disk]]\npath = \"/dev/vg/web\"\nserial = \"1\"\n",
        );
        write("db.toml", "[guest]\nname = \"db\"\n[node]\ncontrol = \"/run/elsewhere.sock\"\n");
        write("mce-monitor.toml", "[memory]\ncorrected_red = \"off\"\n");
        write("web.key", "secret");
        write("file.sock", "no socket");
        let _listeners =
            ["mail.sock", "mce-monitor.sock"].map(|name| UnixListener::bind(path(name)).expect("a new socket"));
        let known = guests(directory.path()).known();
        let expected: [PathBuf; 3] = ["/run/elsewhere.sock".into(), "/run/kemari/web.sock".into(), path("mail.sock")];
        assert_eq!(known.sockets, expected.into());
        assert_eq!(known.disks, [Path::new("/dev/vg/web")]);
        assert!(known.unreadable.is_empty(), "{known:?}");
    }

    #[test]
    fn what_cannot_be_read_or_does_not_answer_is_not_known_to_be_protected() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("bad.toml"), "[guest\n").expect("writable");
        fs::write(path("nameless.toml"), "[guest]\nmemory_mib = 64\n").expect("writable");
        drop(UnixListener::bind(path("dead.sock")).expect("a new socket"));
        let listener = UnixListener::bind(path("odd.sock")).expect("a new socket");
        thread::spawn(move || drop(listener.accept()));
        let mut found = guests(directory.path()).ask();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        let name = |name: &str| path(name).display().to_string();
        let names: Vec<_> = found.iter().map(|guest| guest.name.clone()).collect();
        assert_eq!(names, [name("bad.toml"), name("nameless.toml"), "odd".to_owned()]);
        assert!(found.iter().all(|guest| guest.runs_here && !guest.protected));
    }
}
