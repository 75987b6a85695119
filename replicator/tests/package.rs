//! The Debian package: what it is said to hold is there, and what is there is in it.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The assets' places in the source, and where they are installed.
fn assets() -> Vec<(String, String)> {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("the manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let deb = &manifest["package"]["metadata"]["deb"];
    let assets = deb["assets"].as_array().expect("a list");
    let word = |asset: &toml::Value, index: usize| asset[index].as_str().expect("a string").to_owned();
    assets.iter().map(|asset| (word(asset, 0), word(asset, 1))).collect()
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn what_is_packaged_exists() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (source, _) in assets() {
        // What is built.
        if source.starts_with("target/") {
            continue;
        }
        let path = here.join(&source);
        let found = match path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('*')) {
            Some(extension) => files(path.parent().expect("a directory")).iter().any(|name| name.ends_with(extension)),
            None => path.is_file(),
        };
        assert!(found, "{source} is not there");
    }
}

#[test]
fn what_an_operator_needs_is_packaged() {
    let assets = assets();
    let has = |source: &str| {
        assets.iter().any(|(asset, _)| match asset.split_once('*') {
            Some((directory, extension)) => source.starts_with(directory) && source.ends_with(extension),
            None => asset == source,
        })
    };
    let everything_in = |directory: &str, wanted: fn(&str) -> bool| {
        for name in files(&root().join(directory)).into_iter().filter(|name| wanted(name)) {
            assert!(has(&format!("../{directory}/{name}")), "{directory}/{name} is not packaged");
        }
    };
    everything_in("ocf", |_| true);
    everything_in("pcs-examples", |name| name != "README.md");
    everything_in("mce-monitor", |name| name.ends_with(".8") || name.ends_with(".service"));
    for name in files(&root().join("replicator/man")) {
        assert!(has(&format!("man/{name}")), "man/{name} is not packaged");
    }
    // Every file in it is executed for its metadata.
    let agents = assets.iter().filter(|(_, place)| place.starts_with("usr/lib/ocf/resource.d/"));
    assert!(agents.map(|(source, _)| source).eq(["../ocf/guest", "../ocf/health-mce"]));
}
