//! `kemari-mce-monitor`: see `kemari_mce_monitor`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kemari_mce_monitor::main()
}
