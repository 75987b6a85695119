#!/bin/sh
# Builds the Debian package of everything a node needs, and prints where it is. Needs cargo-deb (`cargo install cargo-deb`).
set -eu
cd "$(dirname "$0")/../.."

cargo build --release --locked --bin kemari-replicator --bin kemari-agent --bin kemari-mce-monitor
target=${CARGO_TARGET_DIR:-target}
completions=$target/release/completions
mkdir -p "$completions"
for program in kemari-replicator kemari-mce-monitor; do
    "$target/release/$program" completions bash >"$completions/$program"
    "$target/release/$program" completions zsh >"$completions/_$program"
    "$target/release/$program" completions fish >"$completions/$program.fish"
done
exec cargo deb --package kemari-replicator --no-build --locked
