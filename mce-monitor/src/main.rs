//! `kemari-mce-monitor`: see `kemari_mce_monitor`.

fn main() {}
