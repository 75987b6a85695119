//! Links the bare-metal guest where a VMM loads it; the library needs nothing of this.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=ledger.ld");
    if std::env::var_os("CARGO_FEATURE_BARE_METAL").is_some() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ledger.ld");
        println!("cargo:rustc-link-arg-bin=ledger=-T{script}");
        for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
            println!("cargo:rustc-link-arg-bin=ledger={argument}");
        }
    }
}
