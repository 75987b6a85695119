use std::path::Path;

use super::host::findings;
use crate::config::Config;
use crate::link::Key;

/// A directory where O_DIRECT works, with a kernel that is none, a key, and a disk.
fn room() -> tempfile::TempDir {
    let room = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
    std::fs::write(room.path().join("kernel"), "#!/bin/sh").expect("written");
    std::fs::write(room.path().join("disk"), vec![0; 1 << 20]).expect("written");
    Key::generate(&room.path().join("key")).expect("a key");
    room
}

fn config(room: &Path, more: &str) -> Config {
    let at = |name: &str| room.join(name).display().to_string();
    let text = format!(
        "[guest]\nname = \"web\"\nmemory_mib = 64\nkernel = \"{}\"\n\
         [node]\nname = \"alpha\"\nstate_dir = \"{}\"\ncontrol = \"{}\"\n\
         [link]\nlisten = \"127.0.0.1:0\"\npeer = \"127.0.0.1:1\"\nkey_file = \"{}\"\n{more}",
        at("kernel"),
        at("state"),
        at("web.sock"),
        at("key")
    );
    Config::parse(&text, Path::new("web.toml")).expect("it makes sense by itself")
}

/// Everything that is missing, but KVM.
fn missing(config: &Config) -> Vec<String> {
    let problems = findings(config).into_iter().filter_map(|finding| finding.problem);
    problems.filter(|problem| problem.key != "host").map(|problem| problem.to_string()).collect()
}

fn disk(path: &Path, serial: &str) -> String {
    format!("[[disk]]\npath = \"{}\"\nserial = \"{serial}\"\n", path.display())
}

#[test]
fn each_thing_is_looked_at_as_run_does_and_named_with_a_remedy() {
    let room = room();
    let at = |name: &str| room.path().join(name);
    std::fs::write(at("empty"), "").expect("written");
    std::fs::write(at("ragged"), vec![0; 1000]).expect("written");
    std::os::unix::fs::symlink(at("disk"), at("link")).expect("linked");
    let kernel = format!("guest.kernel = {:?}", at("kernel"));
    let said = |more: &str| {
        let mut said = missing(&config(room.path(), more));
        assert!(said[0].starts_with(&kernel) && said[0].contains("vmlinuz"), "{said:?}");
        said.remove(0);
        said
    };
    assert_eq!(said(&disk(&at("disk"), "a")), [] as [String; 0]);
    for name in ["empty", "ragged"] {
        let [said] = &said(&disk(&at(name), "a"))[..] else { panic!("{name}") };
        assert!(said.starts_with(&format!("disk[0].path = {:?}", at(name))) && said.contains("truncate"), "{said}");
    }
    let [alias] = &said(&(disk(&at("disk"), "a") + &disk(&at("link"), "b")))[..] else { panic!("the alias") };
    assert!(alias.starts_with("disk[1].path") && alias.contains(&at("disk").display().to_string()), "{alias}");
    let [tap] = &said("[[nic]]\ntap = \"no-such-tap\"\nmac = \"52:54:00:12:34:56\"\n")[..] else { panic!("the tap") };
    assert!(tap.starts_with("nic[0].tap = \"no-such-tap\"") && tap.contains("ip tuntap add"), "{tap}");
    let console = format!("[console]\noutput = \"file:{}\"\n", at("none/console").display());
    let [console] = &said(&console)[..] else { panic!("the console") };
    assert!(console.starts_with("console.output = \"file:") && console.contains("No such file"), "{console}");
    assert!(!at("state").exists() && !at("web.sock").exists(), "a check leaves nothing behind");
}

#[test]
fn what_is_in_use_by_another_program_is_named() {
    let room = room();
    std::fs::remove_file(room.path().join("kernel")).expect("removed");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let _control = kemari_control::listen(&room.path().join("web.sock")).expect("a socket");
    let mut config = config(room.path(), "");
    config.link.listen = taken.local_addr().expect("bound");
    let missing = missing(&config);
    let [kernel, control, listen] = &missing[..] else { panic!("{missing:?}") };
    assert!(kernel.contains("No such file"), "{kernel}");
    assert!(control.starts_with("node.control") && control.contains("another program"), "{control}");
    assert!(listen.starts_with("link.listen") && listen.contains("another port"), "{listen}");
}
