//! `kemari-agent`: see `kemari_agent`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kemari_agent::main()
}
