//! Builds the guest with a Cargo of its own, since it needs another profile, another linkage and no standard library.
//!
//! For any Linux target on x86-64: the guest takes nothing from the operating system's target but its prebuilt `core`
//! and `alloc`, so no other target has to be installed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

fn main() -> io::Result<()> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let guest = here.join("../guest").canonicalize()?;
    let workspace = here.join("../..").canonicalize()?;
    let target = variable("HOST")?;
    let built = PathBuf::from(variable("OUT_DIR")?).join("guest");

    for input in ["src", "build.rs", "ledger.ld", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", guest.join(input).display());
    }
    for input in ["Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo:rerun-if-changed=build.rs");

    build(&guest, &target, &built)?;
    let image = built.join(&target).join("guest/ledger");
    println!("cargo:rustc-env=KEMARI_GUEST_ELF={}", image.display());
    Ok(())
}

fn build(guest: &Path, target: &str, built: &Path) -> io::Result<()> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.args(["build", "--locked", "--profile=guest", "--features=bare-metal", "--bin=ledger"]);
    // Named even though it is the host's: so no flag meant for the guest reaches build scripts, and the path is known.
    cargo.args(["--target", target]);
    cargo.arg("--manifest-path").arg(guest.join("Cargo.toml")).arg("--target-dir").arg(built);
    // Set and empty: so neither what the outer Cargo was told about the host's code (coverage, sanitizers, clippy) nor what
    // a configuration file says (instructions of this very processor) reaches the guest.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env(name, "");
    }
    let status = cargo.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("building the guest: {cargo:?} failed"))) }
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|e| io::Error::other(format!("{name}: {e}")))
}
