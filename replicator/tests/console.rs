//! The terminal on the guest's console, as a process; a socket stands in for the replicator.

#![allow(clippy::expect_used, reason = "a test says by these what it wanted")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn configured(dir: &Path) -> PathBuf {
    let file = dir.join("web.toml");
    let text = format!(
        r#"
        [guest]
        name = "web"
        memory_mib = 64
        kernel = "/boot/web.elf"
        [console]
        output = "socket:{dir}/console"
        [node]
        name = "alpha"
        control = "{dir}/control"
        [link]
        listen = "127.0.0.1:7040"
        peer = "127.0.0.1:7041"
        key_file = "/etc/kemari/web.key"
        "#,
        dir = dir.display()
    );
    std::fs::write(&file, text).expect("written");
    file
}

fn console(config: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_kemari-replicator"))
        .arg("console")
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started")
}

#[test]
fn a_terminal_that_is_hung_up_on_again_and_again_gives_up_and_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("console")).expect("bound");
    let mut terminal = console(&configured(dir.path()));
    // Open, so that the terminal does not end for want of input.
    let _typed = terminal.stdin.take();
    for _ in 0..3 {
        drop(listener.accept().expect("attached"));
    }
    let ended = terminal.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("another terminal is attached"), "{said}");
}

#[test]
fn a_terminal_goes_on_with_the_next_replicator() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("console")).expect("bound");
    let mut terminal = console(&configured(dir.path()));
    let mut typed = terminal.stdin.take().expect("its input");
    let (mut first, _) = listener.accept().expect("attached");
    first.write_all(b"before ").expect("said");
    drop(first);
    // The second one is hung up on once, as by a replicator that is just ending.
    drop(listener.accept().expect("attached"));
    let (mut third, _) = listener.accept().expect("attached again");
    third.write_all(b"after").expect("said");
    let mut shown = [0; 12];
    terminal.stdout.as_mut().expect("its output").read_exact(&mut shown).expect("shown");
    assert_eq!(&shown, b"before after");
    typed.write_all(b"ls\n\x1d").expect("typed");
    let mut heard = String::new();
    third.read_to_string(&mut heard).expect("heard");
    let ended = terminal.wait_with_output().expect("ended");
    assert_eq!(heard, "ls\n");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("the console is gone"), "{ended:?}");
    assert!(ended.status.success());
}
