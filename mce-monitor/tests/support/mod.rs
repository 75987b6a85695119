//! Records and pages of a ring buffer as the kernel would write them, and a host made of files.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const PAGE_BYTES: usize = 4096;
const HEAD_BYTES: usize = 16;

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/mce").join(name)
}

pub(crate) fn format_text(event: &str) -> String {
    fs::read_to_string(fixture(&format!("formats/{event}.format"))).expect("a format")
}

/// A value of a field.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Number(u64),
    Text(&'static str),
}

/// Offset, size, and whether it points at text.
pub(crate) fn field(format: &str, name: &str) -> Option<(usize, usize, bool)> {
    let line = format.lines().find(|line| {
        let declaration =
            line.trim().strip_prefix("field:").and_then(|line| line.split(';').next()).unwrap_or_default();
        declaration.split_whitespace().next_back().is_some_and(|word| word.split('[').next() == Some(name))
    })?;
    let number = |key: &str| line.split(';').find_map(|part| part.trim().strip_prefix(key)?.parse().ok());
    Some((number("offset:")?, number("size:")?, line.contains("__data_loc")))
}

/// A record of the event whose format that is. Fields that are not named are zero.
pub(crate) fn record(format: &str, values: &[(&str, Value)]) -> Vec<u8> {
    let end = format
        .lines()
        .filter_map(|line| {
            let number =
                |key: &str| line.split(';').find_map(|part| part.trim().strip_prefix(key)?.parse::<usize>().ok());
            Some(number("offset:")? + number("size:")?)
        })
        .max()
        .expect("fields");
    let id = format.lines().find_map(|line| line.strip_prefix("ID: ")?.parse::<u16>().ok()).expect("a number");
    let mut bytes = vec![0; end.next_multiple_of(4)];
    bytes[..2].copy_from_slice(&id.to_le_bytes());
    for (name, value) in values {
        let (offset, size, _) = field(format, name).unwrap_or_else(|| panic!("{name} is no field"));
        let number = match value {
            Value::Number(number) => *number,
            Value::Text(text) => {
                let pointer = (text.len() + 1) << 16 | bytes.len();
                bytes.extend_from_slice(text.as_bytes());
                bytes.push(0);
                pointer as u64
            }
        };
        bytes[offset..offset + size].copy_from_slice(&number.to_le_bytes()[..size]);
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A page with these records, `delta_ns` apart.
pub(crate) fn page(clock_ns: u64, delta_ns: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let mut data = Vec::new();
    for record in records {
        let words = u32::try_from(record.len() / 4).expect("short");
        if (1..=28).contains(&words) {
            data.extend_from_slice(&(delta_ns << 5 | words).to_le_bytes());
        } else {
            data.extend_from_slice(&(delta_ns << 5).to_le_bytes());
            data.extend_from_slice(&(words * 4 + 4).to_le_bytes());
        }
        data.extend_from_slice(record);
    }
    let mut page = Vec::with_capacity(PAGE_BYTES);
    page.extend_from_slice(&clock_ns.to_le_bytes());
    page.extend_from_slice(&(data.len() as u64).to_le_bytes());
    page.extend_from_slice(&data);
    assert!(page.len() <= PAGE_BYTES, "too much for a page");
    page.resize(PAGE_BYTES, 0);
    page
}

/// What the clock of a trace says now.
pub(crate) fn clock_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec).expect("after the boot") * 1_000_000_000
        + u64::try_from(time.tv_nsec).expect("less than a second")
}

/// How many records of `bytes` fit a page.
pub(crate) fn fits(bytes: usize) -> usize {
    (PAGE_BYTES - HEAD_BYTES) / (bytes + 8)
}

/// A corrected (0), uncorrected (1), … error of a DIMM, as EDAC's tracepoint tells it.
pub(crate) fn mc_event(format: &str, error_type: u64, label: &'static str, address: u64) -> Vec<u8> {
    let values = [
        ("error_type", Value::Number(error_type)),
        ("msg", Value::Text("memory read error")),
        ("label", Value::Text(label)),
        ("error_count", Value::Number(1)),
        ("address", Value::Number(address)),
        ("driver_detail", Value::Text("")),
    ];
    record(format, &values)
}

/// Makes a FIFO, and its directory.
pub(crate) fn make_fifo(path: &Path) {
    fs::create_dir_all(path.parent().expect("below")).expect("writable");
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

/// A host whose tracefs, sysfs and kernel log are files and FIFOs.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Site {
    pub(crate) fn new() -> Site {
        let site = Site { directory: tempfile::tempdir().expect("temporary directory"), daemon: None };
        let instance = site.path("tracefs/instances/kemari-mce");
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().expect("below")).expect("writable");
            fs::write(path, text).expect("writable");
        };
        for file in ["buffer_percent", "buffer_size_kb", "trace_clock", "tracing_on"] {
            write(instance.join(file), "");
        }
        for (group, event) in [("mce", "mce_record"), ("ras", "mc_event"), ("ras", "aer_event")] {
            let event_path = instance.join("events").join(group).join(event);
            write(event_path.join("format"), &format_text(event));
            write(event_path.join("enable"), "0");
        }
        fs::create_dir_all(instance.join("per_cpu/cpu0")).expect("writable");
        fs::create_dir_all(site.path("sysfs/devices/system/edac/mc/mc0")).expect("writable");
        fs::create_dir_all(site.path("bin")).expect("writable");
        for fifo in [instance.join("per_cpu/cpu0/trace_pipe_raw"), site.path("kmsg")] {
            make_fifo(&fifo);
        }
        site.configure("[cluster]\nenabled = false\n");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn configure(&self, more: &str) {
        let root = self.directory.path().display();
        let text = format!(
            "[sources]\ntracefs = \"{root}/tracefs\"\nsysfs = \"{root}/sysfs\"\nkmsg = \"{root}/kmsg\"\n\
             mcelog = \"{root}/none\"\nnetlink = false\nreconcile = \"1s\"\n[daemon]\ncontrol = \"{root}/c.sock\"\n\
             state = \"{root}/state/m.json\"\n[guests]\nconfigs = \"{root}/guests\"\nrun = \"{root}/run\"\n{more}"
        );
        fs::write(self.path("m.toml"), text).expect("writable");
    }

    /// Starts the daemon and waits until it answers. Commands of Pacemaker are those in `bin`.
    pub(crate) fn start(&mut self) {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap_or_default());
        let log = File::options().create(true).append(true).open(self.path("log")).expect("writable");
        let daemon = Command::new(env!("CARGO_BIN_EXE_kemari-mce-monitor"))
            .args(["run", "--config"])
            .arg(self.path("m.toml"))
            .env("PATH", path)
            .env("SITE", self.directory.path())
            .stderr(Stdio::from(log))
            .spawn()
            .expect("the daemon starts");
        self.daemon = Some(daemon);
        wait_for("the daemon", || self.ask(&["status"]).status.success().then_some(()));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }

    /// Ends the daemon by this signal; whether it ended with success.
    pub(crate) fn stop(&mut self, signal: &str) -> bool {
        let mut daemon = self.daemon.take().expect("it runs");
        let pid = daemon.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
        daemon.wait().expect("it ends").success()
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid().to_string()]).status().expect("kill").success());
    }

    /// Whether the daemon has ended by itself, or because of somebody else.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = self.daemon.as_mut().expect("it ran").try_wait().expect("a child").is_some();
        if ended {
            self.daemon = None;
        }
        ended
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a command");
        Command::new(env!("CARGO_BIN_EXE_kemari-mce-monitor"))
            .args([command, "--config"])
            .arg(self.path("m.toml"))
            .args(rest)
            .output()
            .expect("it runs")
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&self.ask(&["status", "--json"]).stdout).expect("a status")
    }

    pub(crate) fn becomes(&self, colour: &str) -> serde_json::Value {
        wait_for(&format!("{colour}: {}", self.status()), || {
            let status = self.status();
            (status["colour"] == colour).then_some(status)
        })
    }

    pub(crate) fn trace(&self) -> File {
        open(&self.path("tracefs/instances/kemari-mce/per_cpu/cpu0/trace_pipe_raw"))
    }

    pub(crate) fn log(&self, line: &str) {
        open(&self.path("kmsg")).write_all(line.as_bytes()).expect("somebody reads");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill().and_then(|()| daemon.wait()).expect("it ends");
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.path("log")).unwrap_or_default());
        }
    }
}

/// Opens a FIFO to write to; that it is opened for reading, too, is so that it need not wait for a reader.
fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("a FIFO")
}

/// Waits for up to 10 s until `done` gives something.
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < limit, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
