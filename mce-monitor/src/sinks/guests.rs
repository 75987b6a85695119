//! The guests of this host: whether they could leave it, and how often they are made safe while it is not well.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kemari_control::{Client, Replication, Reply, Request, Role};
use serde::Deserialize;

use super::mailbox::{Mail, Mailbox};
use crate::config::GuestsConfig;
use crate::health::Colour;
use crate::health::gate::Guest;

/// How often a host that is not well tells the replicators again: one may have been started meanwhile.
const AGAIN: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct File {
    guest: GuestTable,
    #[serde(default)]
    node: NodeTable,
}

#[derive(Deserialize)]
struct GuestTable {
    name: String,
}

#[derive(Default, Deserialize)]
struct NodeTable {
    control: Option<PathBuf>,
}

/// Every guest that has a configuration here, or a socket that was named.
#[derive(Clone, Debug)]
pub(crate) struct Guests {
    config: GuestsConfig,
}

impl Guests {
    pub(crate) fn new(config: &GuestsConfig) -> Guests {
        Guests { config: config.clone() }
    }

    fn sockets(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.config.configs) else { return self.config.sockets.clone() };
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        let mut sockets: Vec<PathBuf> = paths.filter_map(|path| control_socket(&path)).collect();
        sockets.extend(self.config.sockets.iter().cloned());
        sockets.sort();
        sockets.dedup();
        sockets
    }

    /// Asks each. One that does not answer, although something listens, is not known to be protected.
    pub(super) fn ask(&self) -> Vec<Guest> {
        self.sockets().iter().filter_map(|socket| ask(socket)).collect()
    }

    /// Has each do something; what one refuses, or does not understand, is no harm.
    fn order(&self, request: &Request) {
        for socket in self.sockets() {
            match Client::connect(&socket).and_then(|mut client| client.request(request)) {
                Ok(Reply::Refused { reason }) => log::debug!("{}: {reason}", socket.display()),
                Ok(_) => {}
                Err(error) => log::debug!("{error}"),
            }
        }
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

/// The control socket that a guest's configuration names, or that its name implies.
fn control_socket(path: &Path) -> Option<PathBuf> {
    if path.extension()? != "toml" {
        return None;
    }
    let File { guest, node } = toml::from_str(&fs::read_to_string(path).ok()?).ok()?;
    Some(node.control.unwrap_or_else(|| format!("/run/kemari/{}.sock", guest.name).into()))
}

fn ask(socket: &Path) -> Option<Guest> {
    let name = socket.file_stem()?.to_string_lossy().into_owned();
    let mut client = Client::connect(socket).ok()?;
    Some(match client.status() {
        Ok(status) => Guest {
            name: status.guest,
            runs_here: status.role == Role::Primary,
            protected: status.replication == Replication::Protected,
            peer: status.peer,
        },
        Err(error) => {
            log::warn!("{error}");
            Guest { name, runs_here: true, protected: false, peer: None }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_s_socket_is_found_and_other_files_are_left_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("writable");
        write("web.toml", "[guest]\nname = \"web\"\nmemory_mib = 64\n");
        write("db.toml", "[guest]\nname = \"db\"\n[node]\ncontrol = \"/run/elsewhere.sock\"\n");
        write("mce-monitor.toml", "[memory]\ncorrected_red = \"off\"\n");
        write("web.key", "secret");
        let config = GuestsConfig {
            configs: directory.path().to_owned(),
            sockets: vec!["/run/kemari/web.sock".into()],
            pace: AGAIN,
        };
        let expected: [PathBuf; 2] = ["/run/elsewhere.sock".into(), "/run/kemari/web.sock".into()];
        assert_eq!(Guests::new(&config).sockets(), expected);
    }
}
