//! What is known, on disk: read at the start, written when something has changed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::mailbox::{Mail, Mailbox};
use crate::health::Stored;

/// The file.
pub(crate) struct Keeper {
    path: PathBuf,
}

impl Keeper {
    pub(crate) fn new(path: &Path) -> Keeper {
        Keeper { path: path.to_owned() }
    }

    /// What is in the file. One that cannot be read is kept aside, for whoever wants to know.
    pub(crate) fn load(&self) -> Option<Stored> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                log::error!("{}: {error}; what was known is not", self.path.display());
                return None;
            }
        };
        let stored = serde_json::from_str::<Stored>(&text).map_err(|error| error.to_string());
        match stored.and_then(|stored| if stored.is_understood() { Ok(stored) } else { Err("a newer form".to_owned()) })
        {
            Ok(stored) => Some(stored),
            Err(reason) => {
                let aside = self.path.with_extension("unreadable");
                log::error!("{}: {reason}; kept as {}, and begun anew", self.path.display(), aside.display());
                if let Err(error) = fs::rename(&self.path, &aside) {
                    log::error!("{}: {error}", aside.display());
                }
                None
            }
        }
    }

    /// Writes what comes, until no more comes.
    pub(crate) fn serve(&self, states: &Arc<Mailbox<Stored>>) {
        let mut failing = false;
        loop {
            match states.take(Duration::MAX) {
                Mail::New(stored) => match self.store(&stored) {
                    Ok(()) => failing = false,
                    Err(error) if failing => log::debug!("{}: {error}", self.path.display()),
                    Err(error) => {
                        failing = true;
                        log::error!("{}: {error}; a restart would forget what is known", self.path.display());
                    }
                },
                Mail::Nothing => {}
                Mail::Closed => return,
            }
        }
    }

    /// Whole or not at all.
    fn store(&self, stored: &Stored) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new("/"));
        fs::create_dir_all(directory)?;
        let draft = self.path.with_extension("draft");
        let mut file = File::create(&draft)?;
        serde_json::to_writer(&mut file, stored)?;
        file.flush()?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        File::open(directory)?.sync_all()
    }
}
