//! The real thing: an error of a real block device, through this kernel's own tracepoint.
//!
//! A loop device over a file that was cut short gives EIO. It needs root, tracefs with `block_rq_error`, and loop devices; where
//! these are missing it is skipped, and says so.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::Site;

const TRACEFS: &str = "/sys/kernel/tracing";

/// A loop device that goes with it.
struct Loop(String);

impl Loop {
    /// Over a file of 1 MiB that is cut to its first 4 KiB afterwards.
    fn cut_short(file: &Path) -> Option<Loop> {
        fs::File::create(file).expect("writable").set_len(1 << 20).expect("sparse");
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        fs::File::options().write(true).open(file).expect("there").set_len(4096).expect("cut");
        output.status.success().then_some(Loop(name))
    }

    fn fail(&self) {
        let from = format!("if={}", self.0);
        let dd =
            Command::new("dd").args([&from, "of=/dev/null", "bs=4096", "skip=2", "count=1", "iflag=direct"]).output();
        assert!(!dd.expect("dd").status.success(), "there is nothing to be read");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").args(["--detach", &self.0]).status();
        assert!(detached.is_ok_and(|status| status.success()), "{} stays", self.0);
    }
}

/// CI must not skip.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
}

#[test]
fn an_error_of_a_disk_is_seen_through_the_kernel_s_own_tracepoint() {
    let event = Path::new(TRACEFS).join("events/block/block_rq_error/format");
    if fs::read(&event).is_err() {
        return skip(&format!("{} cannot be read: not root, or no such tracepoint", event.display()));
    }
    let mut site = Site::new();
    let Some(device) = Loop::cut_short(&site.path("disk")) else {
        return skip("no loop device can be had");
    };
    let instance = format!("kemari-test-{}", std::process::id());
    let root = site.directory.path().display();
    let name = device.0.trim_start_matches("/dev/");
    let text = format!(
        "[sources]\ntracefs = \"{TRACEFS}\"\ninstance = \"{instance}\"\nkmsg = \"{root}/kmsg\"\nmcelog = \"{root}/none\"\n\
         [daemon]\ncontrol = \"{root}/c.sock\"\nstate = \"{root}/m.json\"\n[cluster]\nenabled = false\n\
         [guests]\nconfigs = \"{root}\"\nrun = \"{root}\"\n[block]\ndevices = [\"{name}\"]\n"
    );
    fs::write(site.path("m.toml"), text).expect("writable");
    site.start();
    device.fail();
    let status = site.becomes("yellow");
    assert_eq!(status["why"], format!("yellow: block {name}: UE: 1 / 24h"));
    assert_eq!(status["parts"][0]["faults"], 1);
    (0..5).for_each(|_| device.fail());
    site.becomes("red");
    let path = Path::new(TRACEFS).join("instances").join(&instance);
    assert!(path.exists());
    assert!(site.stop("-TERM"));
    assert!(!path.exists(), "what was made in tracefs must go");
}
