//! From a record in the ring buffer to the attribute being sent, while corrected errors pour in; and what watching costs.
//!
//! A FIFO stands in for `trace_pipe_raw`, and this program, under their names, for Pacemaker's commands: it notes when it was
//! called with which value. So what is measured ends where Pacemaker begins. Run it by `cargo bench -p kemari-mce-monitor`.

#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on has nothing to say")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use support::{Site, format_text, mc_event, page};

const ROUNDS: usize = 200;
const FLOOD_PER_S: u64 = 10_000;
const RECORDS_A_PAGE: u64 = 10;
const CALM_PER_S: u64 = 100;
const CALM_S: u64 = 10;

fn main() {
    match std::env::args().next().as_deref().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str()) {
        Some("attrd_updater") => attrd_updater(),
        Some("crm_mon") => println!(
            "<r><nodes><node name='alpha' id='1' online='true'/><node name='beta' id='2' online='true'/></nodes></r>"
        ),
        _ => bench(),
    }
}

/// CLOCK_BOOTTIME, the same in every process.
fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Notes when it was called with which colour.
fn attrd_updater() {
    let called_ns = now_ns();
    let site = std::env::var("SITE").expect("called by the daemon");
    let arguments: Vec<String> = std::env::args().collect();
    let own = Path::new(&site).join("own");
    if arguments.iter().any(|argument| argument == "--query") {
        let value = fs::read_to_string(own).unwrap_or_default();
        println!("<r><attribute host='alpha' value='{value}'/></r>");
    } else if let Some(value) = arguments.iter().find_map(|argument| argument.strip_prefix("--update="))
        && arguments.iter().any(|argument| argument == "#health-mce")
    {
        fs::write(own, value).expect("writable");
        let mut stamps = File::options().append(true).open(Path::new(&site).join("stamps")).expect("a FIFO");
        writeln!(stamps, "{called_ns} {value}").expect("somebody reads");
    }
}

fn bench() {
    let mut site = Site::new();
    for command in ["attrd_updater", "crm_mon"] {
        let program = std::env::current_exe().expect("this program");
        std::os::unix::fs::symlink(program, site.path("bin").join(command)).expect("new");
    }
    site.configure(
        "[cluster]\nnode = \"alpha\"\n[memory]\ncorrected_yellow = \"off\"\ncorrected_red = \"off\"\nstorm_red = \"off\"\n\
         pages_yellow = \"off\"\npages_red = \"off\"\n",
    );
    assert!(Command::new("mkfifo").arg(site.path("stamps")).status().expect("mkfifo").success());
    let stamps = File::options().read(true).write(true).open(site.path("stamps")).expect("a FIFO");
    let mut stamps = BufReader::new(stamps);
    site.start();
    next_stamp(&mut stamps, "green");

    let (pipe, command) = (pipe_floor(), command_floor(&site, &mut stamps));
    let idle = rounds(&site, &mut stamps, "idle", ROUNDS / 4);
    let flood = Flood::start(&site, FLOOD_PER_S, RECORDS_A_PAGE);
    let busy = rounds(&site, &mut stamps, "busy", ROUNDS);
    let (poured, seconds) = flood.end();
    println!("| | p50 | p99 |\n| --- | --- | --- |");
    row("floor: a page through a pipe to a thread that waits", &pipe);
    row("floor: the command started by itself", &command);
    row("record to attribute sent, nothing else going on", &idle);
    row(&format!("the same beside {:.0} corrected errors a second", poured as f64 / seconds), &busy);
    let lost: u64 =
        site.status()["sources"].as_array().expect("a list").iter().filter_map(|source| source["lost"].as_u64()).sum();
    println!("{poured} records poured in, {lost} lost; resident {} KiB", resident_kib(site.pid()));

    let flood = Flood::start(&site, CALM_PER_S, 1);
    let (began, before) = (Instant::now(), cpu_ticks(site.pid()));
    thread::sleep(Duration::from_secs(CALM_S));
    let ticks = cpu_ticks(site.pid()) - before;
    let share = ticks as f64 / 100.0 / began.elapsed().as_secs_f64();
    flood.end();
    println!("CPU at {CALM_PER_S} corrected errors a second: {:.2} % of a core", share * 100.0);
    assert!(site.stop("-TERM"), "the daemon ends in order");
}

/// Times from an uncorrected error to the attribute, each after an operator has cleared the one before.
fn rounds(site: &Site, stamps: &mut BufReader<File>, what: &str, rounds: usize) -> Vec<u64> {
    let record = [mc_event(&format_text("mc_event"), 1, "DIMM_B1", 0)];
    let mut trace = site.trace();
    let mut times = Vec::new();
    for _ in 0..rounds {
        let written_ns = now_ns();
        trace.write_all(&page(written_ns, 0, &record)).expect("somebody reads");
        times.push(next_stamp(stamps, "red").saturating_sub(written_ns));
        assert!(site.ask(&["clear", "DIMM_B1"]).status.success(), "{what}");
        next_stamp(stamps, "green");
    }
    times
}

/// When the next attribute of that colour was sent.
fn next_stamp(stamps: &mut BufReader<File>, colour: &str) -> u64 {
    loop {
        let mut line = String::new();
        stamps.read_line(&mut line).expect("somebody writes");
        let (called_ns, value) = line.trim().split_once(' ').expect("two words");
        if value == colour {
            return called_ns.parse().expect("a number");
        }
    }
}

/// Corrected errors at a rate, until it is ended.
struct Flood {
    ends: Arc<AtomicBool>,
    records: Arc<AtomicU64>,
    began: Instant,
    thread: thread::JoinHandle<()>,
}

impl Flood {
    fn start(site: &Site, per_s: u64, records_a_page: u64) -> Flood {
        let (ends, records) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut trace = site.trace();
        let format = format_text("mc_event");
        let began = Instant::now();
        let thread = thread::spawn({
            let (ends, records) = (Arc::clone(&ends), Arc::clone(&records));
            move || {
                while !ends.load(Ordering::Relaxed) {
                    let number = records.load(Ordering::Relaxed);
                    let due = began + Duration::from_nanos(number * 1_000_000_000 / per_s);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    // Each of another page of memory, so that each has to be remembered.
                    let events: Vec<Vec<u8>> = (number..number + records_a_page)
                        .map(|number| mc_event(&format, 0, "DIMM_A1", (number + 1) << 12))
                        .collect();
                    trace.write_all(&page(now_ns(), 0, &events)).expect("somebody reads");
                    records.fetch_add(records_a_page, Ordering::Relaxed);
                }
            }
        });
        Flood { ends, records, began, thread }
    }

    fn end(self) -> (u64, f64) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().expect("it poured");
        (self.records.load(Ordering::Relaxed), self.began.elapsed().as_secs_f64())
    }
}

fn pipe_floor() -> Vec<u64> {
    let (mut read, mut write) = std::io::pipe().expect("a pipe");
    let reader = thread::spawn(move || {
        let mut page = vec![0; support::PAGE_BYTES];
        let mut times = Vec::new();
        while read.read_exact(&mut page).is_ok() {
            let written_ns = u64::from_le_bytes(page[..8].try_into().expect("eight bytes"));
            times.push(now_ns() - written_ns);
        }
        times
    });
    let mut page = vec![0; support::PAGE_BYTES];
    for _ in 0..1000 {
        thread::sleep(Duration::from_millis(1));
        page[..8].copy_from_slice(&now_ns().to_le_bytes());
        write.write_all(&page).expect("somebody reads");
    }
    drop(write);
    reader.join().expect("it read")
}

fn command_floor(site: &Site, stamps: &mut BufReader<File>) -> Vec<u64> {
    let mut times = Vec::new();
    for _ in 0..100 {
        let began_ns = now_ns();
        let mut command = Command::new(site.path("bin/attrd_updater"));
        command.args(["--name", "#health-mce", "--update=floor"]).env("SITE", site.directory.path());
        let mut child = command.spawn().expect("it starts");
        times.push(next_stamp(stamps, "floor") - began_ns);
        child.wait().expect("it ends");
    }
    fs::write(site.path("own"), "green").expect("writable");
    times
}

fn row(what: &str, times: &[u64]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize] as f64 / 1e6;
    println!("| {what} | {:.2} ms | {:.2} ms |", at(0.5), at(0.99));
}

/// User and system time of a process and of its children that have ended, in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    fields[11..15].iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
