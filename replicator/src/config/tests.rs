use std::path::Path;
use std::time::Duration;

use kemari_vmm::Sink;

use super::{Config, ConfigError, Mode, OnGuestPanic};

const GOOD: &str = r#"
[guest]
name = "web"
memory_mib = 64
kernel = "/boot/web.elf"

[[nic]]
tap = "tap-web"
mac = "52:54:00:12:34:56"

[[disk]]
path = "/dev/web"
serial = "root"

[node]
name = "alpha"

[link]
listen = "127.0.0.1:7040"
peer = "127.0.0.1:7041"
key_file = "/etc/kemari/web.key"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("web.toml"))
}

/// What is said about [`GOOD`] after `from` was replaced by `to`.
fn complaint(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    parse(&GOOD.replacen(from, to, 1)).expect_err("must be refused").to_string()
}

#[test]
fn defaults_are_filled_in() {
    let config = parse(GOOD).expect("good");
    assert_eq!((config.guest.vcpus, config.replication.mode), (1, Mode::Event));
    assert_eq!(config.node.state_dir, Path::new("/var/lib/kemari/web"));
    assert_eq!(config.node.control, Path::new("/run/kemari/web.sock"));
    assert_eq!(config.link.peer_timeout, Duration::from_secs(1));
    assert_eq!(config.console.sink, Sink::None);
    assert!(config.console.hold);
    assert_eq!((config.guest.on_guest_panic, config.guest.watchdog), (OnGuestPanic::Restart, false));
    assert_eq!(config.guest.shutdown_timeout, Duration::from_secs(45));
    assert_eq!(config.machine().nics[0].mac, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
}

#[test]
fn a_value_that_makes_no_sense_is_named_with_its_key_and_a_remedy() {
    for (from, to, key, remedy) in [
        ("memory_mib = 64", "memory_mib = 8", "guest.memory_mib = 8", "16 to"),
        ("memory_mib = 64", "memory_mib = 64\nvcpus = 9", "guest.vcpus = 9", "1 to"),
        ("memory_mib = 64", "memory_mib = 64\nshutdown_timeout_s = 0", "guest.shutdown_timeout_s = 0", "1 to"),
        ("\"web\"", "\"a/b\"", "guest.name = \"a/b\"", "letters"),
        ("/boot/web.elf", "web.elf", "guest.kernel = \"web.elf\"", "absolute"),
        ("tap-web", "a-tap-with-a-long-name", "nic[0].tap = \"a-tap-with-a-long-name\"", "15"),
        ("52:54", "53:54", "nic[0].mac = \"53:54:00:12:34:56\"", "multicast"),
        (":56", "", "nic[0].mac = \"52:54:00:12:34\"", "six pairs"),
        ("\"root\"", "\"a serial number that is long\"", "disk[0].serial", "20"),
        ("\"root\"", "\"root\"\ntimeout_s = 0", "disk[0].timeout_s = 0", "1 to 3600"),
        ("127.0.0.1:7040", "localhost:7040", "link.listen = \"localhost:7040\"", "10.0.0.1:7040"),
        ("127.0.0.1:7041", "127.0.0.1:7040", "link.peer = \"127.0.0.1:7040\"", "other node"),
        ("[link]", "[link]\nheartbeat_ms = 900", "link.peer_timeout_ms = 1000", "heartbeat"),
        ("[link]", "[console]\noutput = \"tty\"\n[link]", "console.output = \"tty\"", "socket:PATH"),
        ("[link]", "[[disk]]\npath = \"/dev/web\"\nserial = \"b\"\n[link]", "disk[1].path = \"/dev/web\"", "twice"),
        ("[link]", "[replication]\nmax_epoch_ms = 0\n[link]", "replication.max_epoch_ms = 0", "1 to"),
    ] {
        let said = complaint(from, to);
        assert!(said.contains(key) && said.contains(remedy) && said.starts_with("web.toml: "), "{said}");
    }
}

#[test]
fn an_unknown_key_or_a_wrong_type_is_named_with_its_line() {
    let said = complaint("memory_mib = 64", "memory_mb = 64");
    assert!(said.contains("memory_mb") && said.contains("memory_mib") && said.contains("line 4"), "{said}");
    let said = complaint("memory_mib = 64", "memory_mib = \"64\"");
    assert!(said.contains("invalid type") && said.contains("line 4"), "{said}");
    let said = complaint("memory_mib = 64", "memory_mib = 64\non_guest_panic = \"pray\"");
    assert!(said.contains("pray") && said.contains("failover-once"), "{said}");
    let said = complaint("serial = \"root\"", "serial = \"root\"\non_error = \"ignore\"");
    assert!(said.contains("ignore") && said.contains("failover"), "{said}");
    let said = complaint("[link]", "[replication]\nmode = \"fast\"\n[link]");
    assert!(said.contains("fast") && said.contains("event"), "{said}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = GOOD.replace("64", "1").replace("52:54", "zz:54");
    let Err(ConfigError::Invalid { problems, .. }) = parse(&text) else { panic!("must be refused") };
    assert_eq!(problems.len(), 2);
}

#[test]
fn a_device_that_cannot_be_replayed_is_refused_with_the_reason() {
    for (from, to, key, reason) in [
        ("tap = \"tap-web\"", "tap = \"tap-web\"\nvhost = true", "nic[0].vhost = true", "before a checkpoint covers"),
        (
            "tap = \"tap-web\"",
            "tap = \"tap-web\"\nbackend = \"vhost-user\"",
            "nic[0].backend = \"vhost-user\"",
            "in flight",
        ),
        ("[link]", "[[vfio]]\nhost = \"01:00.0\"\n[link]", "vfio = ...", "real device"),
        ("[link]", "[[device]]\nkind = \"virtio-fs\"\n[link]", "device[0].kind = \"virtio-fs\"", "use disk"),
        ("[link]", "[[device]]\ntype = \"virtio-vsock\"\n[link]", "device[0].type = \"virtio-vsock\"", "queues"),
        ("memory_mib = 64", "memory_mib = 64\nballoon = true", "guest.balloon = true", "both nodes"),
    ] {
        let said = complaint(from, to);
        assert!(said.contains(key) && said.contains("not allowed") && said.contains(reason), "{said}");
    }
    // A name is no request.
    parse(&GOOD.replacen("\"web\"", "\"vfio\"", 1)).expect("good");
}

#[test]
fn the_manual_page_has_every_device_with_its_reason() {
    let page = include_str!("../../man/kemari-replicator.toml.5");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = words(page);
    for kemari_vmm::DeviceKind { name: kind, replay: reason, .. } in kemari_vmm::ALLOWED_DEVICES {
        assert!(page.contains(&format!(".B {kind} {}", words(reason))), "{kind}: {reason}");
    }
}
