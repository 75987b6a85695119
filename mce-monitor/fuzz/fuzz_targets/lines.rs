#![no_main]

use kemari_mce_monitor::fuzzing::Stream;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Stream::Lines.feed(bytes);
});
