//! Builds the guest with a Cargo of its own, since it needs another profile, another linkage and no standard library.
//!
//! For any Linux target on x86-64: the guest takes nothing from the operating system's target but its prebuilt `core`
//! and `alloc`, so no other target has to be installed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

/// What the outer Cargo and its user say about the host's code, and what must not reach the guest's.
const NOT_FOR_THE_GUEST: &[&str] = &[
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
];

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
    for name in NOT_FOR_THE_GUEST {
        cargo.env_remove(name);
    }
    // Flags may also be set for one target.
    let suffix = target.to_uppercase().replace('-', "_");
    for setting in ["RUSTFLAGS", "LINKER", "RUNNER"] {
        cargo.env_remove(format!("CARGO_TARGET_{suffix}_{setting}"));
    }
    let status = cargo.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("building the guest: {cargo:?} failed"))) }
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|e| io::Error::other(format!("{name}: {e}")))
}
