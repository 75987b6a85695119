//! The fence device of the test: it really cuts a host's power.
//!
//! The agent on a host leaves a request in a directory, which this side carries out: a host cannot reach out of its namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kemari_site::NodeName;

use crate::cluster::lock;
use crate::error::{ClusterError, io};
use crate::machine::Machine;

const LOOK: Duration = Duration::from_millis(10);

/// The program that pacemaker-fenced calls, with the directory of requests in place of `@DIR@`.
const AGENT: &str = include_str!("fence_kemari_test.sh");

/// The device, at work until the value is dropped.
pub(crate) struct Fence {
    directory: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fence {
    pub(crate) fn start(directory: &Path, machines: Vec<(NodeName, Arc<Mutex<Machine>>)>) -> Fence {
        let (directory, stop) = (directory.to_owned(), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (directory, stop) = (directory.clone(), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for (name, machine) in &machines {
                        serve(&directory, *name, machine);
                    }
                    std::thread::sleep(LOOK);
                }
            }
        });
        Fence { directory, stop, thread: Some(thread) }
    }

    /// The agent's text, for a directory of requests.
    pub(crate) fn agent(directory: &Path) -> String {
        AGENT.replace("@DIR@", &directory.to_string_lossy())
    }

    /// Whether it works. One that does not says so to whoever asks.
    pub(crate) fn set_working(&self, working: bool) -> Result<(), ClusterError> {
        let broken = self.directory.join("broken");
        let done = if working { fs::remove_file(broken) } else { fs::write(broken, "") };
        done.map_err(io("break or mend the fence device"))
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

fn serve(directory: &Path, name: NodeName, machine: &Mutex<Machine>) {
    let request = directory.join(format!("{name}.off"));
    if !request.exists() {
        return;
    }
    if let Err(error) =
        lock(machine).kill().and_then(|()| fs::remove_file(&request).map_err(io("take a request of the fence device")))
    {
        eprintln!("fencing {name}: {error}");
    }
}
