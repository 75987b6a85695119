//! `kemari-replicator`: see `kemari_replicator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kemari_replicator::cli::main()
}
