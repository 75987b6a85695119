//! The daemon on a host made of files and FIFOs, and its other commands.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kemari_control::{ConsoleStatus, Replication, Reply, Request, Role, Status};

use support::{PAGE_BYTES, Site, clock_ns, fixture, format_text, mc_event, page, wait_for};

/// Stands in for Pacemaker's commands: attributes are files in `cluster`, and whoever asks for nodes gets two.
const ATTRD: &str = r##"#!/bin/sh
[ -e "$SITE/absent" ] && exit 102
name= update= query= delete=
while [ $# -gt 0 ]; do
    case $1 in
    --name) name=$2; shift ;;
    --update=*) update=${1#--update=} ;;
    --query) query=1 ;;
    --delete) delete=1 ;;
    --delay) echo "$2" >>"$SITE/delays"; shift ;;
    esac
    shift
done
mkdir -p "$SITE/cluster"
file="$SITE/cluster/$name"
if [ -n "$query" ]; then
    # Nobody ever heard of it; or something else is wrong.
    [ -e "$SITE/cluster/#health-mce" ] || exit 105
    [ -e "$SITE/deaf" ] && exit 1
    echo "<r><attribute name='$name' host='alpha' value='$(cat "$file" 2>/dev/null)'/>"
    echo "<attribute name='$name' host='beta' value='$(cat "$SITE/beta" 2>/dev/null)'/></r>"
elif [ -n "$delete" ]; then
    rm -f "$file"
else
    echo "$update" >"$file"
    echo "$name=$update" >>"$SITE/told"
fi
"##;
const CRM_MON: &str = r##"#!/bin/sh
[ -e "$SITE/absent" ] && exit 102
echo '<r><nodes><node name="alpha" id="1" online="true"/><node name="beta" id="2" online="true"/></nodes></r>'
"##;

fn with_cluster() -> Site {
    let site = Site::new();
    for (name, text) in [("attrd_updater", ATTRD), ("crm_mon", CRM_MON)] {
        let path = site.path("bin").join(name);
        fs::write(&path, text).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    }
    site.configure("[cluster]\nnode = \"alpha\"\n");
    site
}

fn edac(error_type: u64, label: &'static str) -> Vec<u8> {
    page(clock_ns(), 1, &[mc_event(&format_text("mc_event"), error_type, label, 0)])
}

fn published(site: &Site, name: &str, wanted: &str) {
    let path = site.path("cluster").join(name);
    wait_for(&format!("{name}={wanted}, not {:?}", fs::read_to_string(&path)), || {
        (fs::read_to_string(&path).unwrap_or_default().trim() == wanted).then_some(())
    });
}

#[test]
fn a_record_of_a_tracepoint_is_seen_and_its_instance_is_set_up_for_it() {
    let mut site = Site::new();
    site.start();
    let instance = site.path("tracefs/instances/kemari-mce");
    let read = |name: &str| fs::read_to_string(instance.join(name)).expect("readable");
    assert_eq!([read("buffer_percent"), read("trace_clock"), read("tracing_on")], ["0", "boot", "1"]);
    assert_eq!([read("events/ras/mc_event/enable"), read("events/mce/mce_record/enable")], ["1", "1"]);
    assert_eq!(site.status()["colour"], "green");
    site.trace().write_all(&edac(1, "DIMM_A1")).expect("somebody reads");
    let status = site.becomes("red");
    assert_eq!(status["why"], "red: memory DIMM_A1: UE");
    let missing = status["missing"].as_array().expect("a list");
    assert!(missing.iter().any(|source| source["name"] == "tracepoints of block"), "{missing:?}");
    // Two readers would take it from each other, and the tracepoint says the same.
    let mcelog = missing.iter().find(|source| source["name"] == "mcelog").expect("not opened");
    assert!(mcelog["reason"].as_str().is_some_and(|reason| reason.contains("mce_record")), "{mcelog}");
    assert!(site.stop("-TERM"));
    assert_eq!(read("events/ras/mc_event/enable"), "0");
    // What is missing is said once.
    assert_eq!(fs::read_to_string(site.path("log")).expect("a log").matches("mcelog is missing").count(), 1);
}

#[test]
fn the_kernel_s_log_is_believed_and_a_program_s_is_not() {
    let mut site = Site::new();
    site.start();
    let check = "mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: 9c00000000000135";
    site.log(&format!("12,1,1000,-;{check}\n12,2,1000,-;EDAC MC0: 1 UE error on A1 (csrow:0 page:0x0)\n"));
    site.log("6,3,1000,-;EDAC MC0: 1 CE memory read error on A1 (csrow:0 page:0x1)\n SUBSYSTEM=edac\n");
    wait_for("the record", || (site.status()["records"] == 1).then_some(()));
    // Only the first line of three: it is whole once nothing more comes.
    site.log(&format!("6,4,1000,-;{check}\n"));
    let status = wait_for("the check", || Some(site.status()).filter(|status| status["records"] == 2));
    assert_eq!(status["colour"], "green");
    site.log("6,5,1000,-;Memory failure: 0x1840200: Killing cellsrv:33395 due to hardware memory corruption\n");
    site.becomes("red");
}

#[test]
fn a_restart_and_a_crash_forget_nothing() {
    let mut site = Site::new();
    site.start();
    site.log("6,7,1000,-;EDAC MC0: 1 UE error on A1 (csrow:0 page:0x0)\n");
    site.becomes("red");
    let state = || fs::read_to_string(site.path("state/m.json")).unwrap_or_default();
    wait_for("the file", || state().contains("\"colour\":\"red\"").then_some(()));
    assert!(!site.stop("-KILL"));
    site.start();
    assert_eq!(site.status()["colour"], "red");
    // A record that was read before is not read again.
    site.log("6,7,1000,-;EDAC MC0: 1 UE error on B1 (csrow:0 page:0x0)\n6,8,1000,-;EDAC MC0: 1 CE error on C1 (csrow:0 page:0x0)\n");
    wait_for("the record", || (site.status()["records"] == 1).then_some(()));
    assert!(site.ask(&["clear", "A1"]).status.success());
    assert!(!site.ask(&["clear", "A1"]).status.success());
    assert_eq!(site.status()["colour"], "green");
    assert!(site.stop("-TERM"));
    site.start();
    assert_eq!(site.status()["colour"], "green");
}

#[test]
fn a_state_that_cannot_be_read_is_kept_aside() {
    let mut site = Site::new();
    fs::create_dir(site.path("state")).expect("new");
    fs::write(site.path("state/m.json"), "{\"version\": 1, \"parts\": ").expect("writable");
    site.start();
    assert!(site.path("state/m.unreadable").exists());
}

#[test]
fn what_no_record_has_told_is_found_by_the_counters() {
    let mut site = Site::new();
    let count = site.path("sysfs/devices/system/edac/mc/mc0/ue_count");
    fs::write(&count, "0\n").expect("writable");
    site.start();
    fs::write(&count, "1\n").expect("writable");
    let status = site.becomes("red");
    assert_eq!(status["why"], "red: memory mc0: UE");
}

#[test]
fn the_cluster_is_told_and_told_again_when_it_has_forgotten() {
    let mut site = with_cluster();
    site.start();
    published(&site, "#health-mce", "green");
    site.trace().write_all(&edac(1, "DIMM_A1")).expect("somebody reads");
    published(&site, "#health-mce", "red");
    published(&site, "kemari-mce-why", "red: memory DIMM_A1: UE");
    published(&site, "kemari-mce-last", "UE       memory DIMM_A1: memory read error");
    // Pacemaker is restarted: it has forgotten, and for a while it is not there.
    fs::write(site.path("absent"), "").expect("writable");
    fs::remove_dir_all(site.path("cluster")).expect("ours");
    wait_for("the trouble", || site.status()["published"]["trouble"].is_string().then_some(()));
    fs::remove_file(site.path("absent")).expect("ours");
    published(&site, "#health-mce", "red");
    assert!(site.ask(&["clear"]).status.success());
    published(&site, "#health-mce", "green");
    assert!(site.stop("-TERM"));
    assert!(!site.path("cluster/#health-mce").exists());
    let delays = fs::read_to_string(site.path("delays")).expect("told");
    assert!(delays.lines().all(|delay| delay == "0"), "{delays}");
}

#[test]
fn red_is_not_published_by_what_is_not_known_and_stays_when_nobody_watches() {
    let mut site = with_cluster();
    // It was published before, and whether beta is red cannot be asked now.
    fs::create_dir(site.path("cluster")).expect("new");
    fs::write(site.path("cluster/#health-mce"), "green").expect("writable");
    fs::write(site.path("deaf"), "").expect("writable");
    site.start();
    site.trace().write_all(&edac(1, "DIMM_A1")).expect("somebody reads");
    wait_for("the trouble", || site.status()["published"]["trouble"].is_string().then_some(()));
    published(&site, "#health-mce", "green");
    fs::remove_file(site.path("deaf")).expect("ours");
    published(&site, "#health-mce", "red");
    assert!(site.stop("-TERM"));
    published(&site, "#health-mce", "red");
    published(&site, "kemari-mce-why", "red: memory DIMM_A1: UE");
}

#[test]
fn a_backlog_is_judged_by_when_it_happened() {
    let mut site = Site::new();
    site.configure("[cluster]\nenabled = false\n[memory]\ncorrected_red = \"off\"\nstorm_red = \"10 / 5s\"\n");
    let corrected = mc_event(&format_text("mc_event"), 0, "DIMM_A1", 0);
    let pages = |step_ns: u64| {
        (0..15).flat_map(move |number| {
            let corrected = corrected.clone();
            page(clock_ns().saturating_sub(number * step_ns), 1, &[corrected])
        })
    };
    site.start();
    let second = 1_000_000_000;
    // Fifteen in thirty seconds, read at once.
    let slow: Vec<u8> =
        pages.clone()(2 * second).collect::<Vec<u8>>().chunks(PAGE_BYTES).rev().flatten().copied().collect();
    site.trace().write_all(&slow).expect("somebody reads");
    wait_for("the records", || (site.status()["records"] == 15).then_some(()));
    assert_eq!(site.status()["colour"], "yellow");
    let fast: Vec<u8> = pages(second / 100).collect();
    site.trace().write_all(&fast).expect("somebody reads");
    site.becomes("red");
}

#[test]
fn red_is_held_back_while_the_other_node_is_red() {
    let mut site = with_cluster();
    fs::write(site.path("beta"), "red").expect("writable");
    site.start();
    published(&site, "#health-mce", "green");
    site.trace().write_all(&edac(1, "DIMM_A1")).expect("somebody reads");
    published(&site, "#health-mce", "yellow");
    let status =
        wait_for("the reason", || Some(site.status()).filter(|status| status["published"]["held_back"].is_string()));
    assert_eq!((&status["colour"], &status["published"]["held_back"]), (&"red".into(), &"beta is red, too".into()));
    published(&site, "kemari-mce-why", "would be red, but beta is red, too; red: memory DIMM_A1: UE");
    fs::write(site.path("beta"), "yellow").expect("writable");
    published(&site, "#health-mce", "red");
    // Both are red: alpha has the lower id, and takes it back.
    fs::write(site.path("beta"), "red").expect("writable");
    published(&site, "#health-mce", "yellow");
}

/// A primary's control socket: how it is replicated can be set, and what was asked of it, status aside, is kept.
#[derive(Clone)]
struct Replicator {
    replication: Arc<Mutex<Replication>>,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Replicator {
    fn listen(path: &Path, replication: Replication) -> Replicator {
        let replicator = Replicator { replication: Arc::new(Mutex::new(replication)), asked: Arc::default() };
        let listener = UnixListener::bind(path).expect("a new socket");
        let copy = replicator.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.expect("somebody connects"));
                let mut line = String::new();
                while stream.read_line(&mut line).unwrap_or(0) > 0 {
                    let reply = copy.answer(&serde_json::from_str(&line).expect("a request"));
                    let reply = serde_json::to_string(&reply).expect("JSON") + "\n";
                    stream.get_mut().write_all(reply.as_bytes()).expect("somebody reads");
                    line.clear();
                }
            }
        });
        replicator
    }

    fn answer(&self, request: &Request) -> Reply {
        if *request != Request::Status {
            self.asked.lock().expect("ours").push(request.clone());
            return Reply::Done { detail: String::new() };
        }
        Reply::Status(Box::new(Status {
            guest: "web".into(),
            node: "alpha".into(),
            pid: 1,
            role: Role::Primary,
            generation: None,
            standing: None,
            authority: None,
            replication: *self.replication.lock().expect("ours"),
            peer: Some("beta".into()),
            trouble: None,
            crashes: None,
            halted: None,
            mended_pages: 0,
            image: None,
            commit_age_ms: None,
            not_promotable: None,
            sync: None,
            gate: None,
            checkpoints: None,
            nics: Vec::new(),
            disks: Vec::new(),
            console: ConsoleStatus { written_bytes: 0, dropped_bytes: 0 },
        }))
    }

    fn was_asked(&self, wanted: &[Request]) {
        wait_for(&format!("{wanted:?}"), || (*self.asked.lock().expect("ours") == wanted).then_some(()));
    }
}

#[test]
fn a_guest_without_standby_keeps_its_host_yellow_and_is_checkpointed_more_often() {
    let mut site = with_cluster();
    fs::create_dir(site.path("guests")).expect("new");
    let socket = site.path("web.sock");
    let guest = format!("[guest]\nname = \"web\"\n[node]\ncontrol = \"{}\"\n", socket.display());
    fs::write(site.path("guests/web.toml"), guest).expect("writable");
    let replicator = Replicator::listen(&socket, Replication::Syncing);
    site.start();
    published(&site, "#health-mce", "green");
    site.trace().write_all(&edac(1, "DIMM_A1")).expect("somebody reads");
    published(&site, "kemari-mce-why", "would be red, but guest web has no standby in sync; red: memory DIMM_A1: UE");
    published(&site, "#health-mce", "yellow");
    let pace = |max_epoch_ms| Request::Pace { max_epoch_ms };
    replicator.was_asked(&[Request::Checkpoint, pace(Some(100))]);
    *replicator.replication.lock().expect("ours") = Replication::Protected;
    published(&site, "#health-mce", "red");
    assert!(site.ask(&["clear"]).status.success());
    published(&site, "#health-mce", "green");
    replicator.was_asked(&[Request::Checkpoint, pace(Some(100)), pace(None)]);
}

#[test]
fn a_cluster_that_takes_its_time_does_not_delay_the_next_record() {
    let mut site = with_cluster();
    let slow = format!("#!/bin/sh\nsleep 3\n{}", ATTRD.trim_start_matches("#!/bin/sh\n"));
    fs::write(site.path("bin/attrd_updater"), slow).expect("writable");
    site.start();
    let began = std::time::Instant::now();
    site.trace().write_all(&edac(1, "DIMM_A1")).expect("somebody reads");
    site.becomes("red");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn files_of_guests_that_cannot_be_read_for_now_delay_nothing() {
    let mut site = Site::new();
    // Whoever opens it waits, as on a disk that hangs.
    support::make_fifo(&site.path("guests/web.toml"));
    site.start();
    site.trace().write_all(&edac(1, "DIMM_A1")).expect("somebody reads");
    site.becomes("red");
}

#[test]
fn the_control_socket_is_for_root_and_for_one_daemon() {
    let mut site = Site::new();
    site.start();
    let mode = fs::metadata(site.path("c.sock")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = site.ask(&["run"]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process listens"), "{second:?}");
    let connect = || std::os::unix::net::UnixStream::connect(site.path("c.sock")).expect("it listens");
    // Whoever connects and says nothing keeps nobody out.
    let idle: Vec<_> = (0..40).map(|_| connect()).collect();
    assert_eq!(site.status()["colour"], "green");
    drop(idle);
    let mut stream = connect();
    stream.write_all(b"{\"request\":\"explode\"}\n").expect("it reads");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("it answers");
    assert!(answer.contains("not a request"), "{answer}");
}

#[test]
fn one_that_is_stuck_is_ended_and_only_then_said_to_be_gone() {
    let mut site = Site::new();
    let stop = |site: &Site| site.ask(&["stop", "--limit", "2"]);
    let absent = stop(&site);
    assert!(absent.status.success() && absent.stdout.starts_with(b"no monitor"), "{absent:?}");
    assert_eq!(site.ask(&["status"]).status.code(), Some(3));
    site.start();
    site.signal("-STOP");
    // A mistake made since it was started keeps nobody from it.
    let good = fs::read_to_string(site.path("m.toml")).expect("readable");
    fs::write(site.path("m.toml"), format!("{good}[nonsense]\n")).expect("writable");
    let began = std::time::Instant::now();
    assert_eq!(site.ask(&["status"]).status.code(), Some(1), "it is there, and does not answer");
    let stopped = stop(&site);
    assert!(stopped.status.success() && began.elapsed() < Duration::from_secs(9), "{stopped:?}");
    assert!(site.has_ended(), "by SIGKILL");
    fs::write(site.path("m.toml"), good).expect("writable");
    site.start();
    let stopped = stop(&site);
    assert!(stopped.status.success() && site.has_ended(), "{stopped:?}");
    assert!(!site.path("c.sock").exists(), "in order");
}

fn monitor(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kemari-mce-monitor")).args(arguments).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

#[test]
fn a_captured_stream_is_replayed() {
    let stream = fixture("mce-intel-SRAO-SRAR-recovered.trace");
    let stream = stream.to_str().expect("a name");
    let (success, text) = monitor(&["replay", stream]);
    assert!(
        success && text.contains("SRAR     processor cpu0 cache at 0x32000000") && text.contains("at the end: red"),
        "{text}"
    );
    let (_, json) = monitor(&["replay", "--json", stream]);
    let replay: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&replay["steps"][2]["class"], &replay["verdict"]["colour"]), (&"SRAO".into(), &"red".into()));
    let (success, text) = monitor(&["replay", "/nonexistent"]);
    assert!(!success && text.contains("/nonexistent"), "{text}");
}

#[test]
fn a_configuration_is_checked() {
    let site = Site::new();
    let path = site.path("m.toml");
    let path = path.to_str().expect("a name");
    assert!(monitor(&["check", path]).0);
    fs::write(path, "[memory]\ncorrected_read = \"100 / 1h\"\n").expect("writable");
    let (success, text) = monitor(&["check", path]);
    assert!(!success && text.contains("corrected_read = \"100 / 1h\"") && text.contains("corrected_red"), "{text}");
}
