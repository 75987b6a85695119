//! The fuzzer's entry points with what is known to be there, mutated: the same on every run.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

mod support;

use std::fs;

use kemari_mce_monitor::fuzzing::Stream;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::{fixture, format_text, mc_event, page};

/// What each stream looks like when it is good, with how many records it has.
fn seeds(stream: Stream) -> Vec<(Vec<u8>, usize)> {
    match stream {
        Stream::Trace => {
            let format = format_text("mc_event");
            let one = page(5, 7, &vec![mc_event(&format, 1, "DIMM_A1", 0x1000); 3]);
            vec![([format.as_bytes(), &[0], &one].concat(), 3)]
        }
        Stream::Lines => vec![
            (b"6,7,1000,-;EDAC MC0: 1 UE error on A1 (csrow:0 page:0x0)\n".to_vec(), 1),
            (fs::read(fixture("panic-amd-epyc-UC-PCC.console")).expect("a fixture"), 1),
        ],
        Stream::Netlink => {
            let uevent = b"change@/x\0SUBSYSTEM=pci\0PCI_SLOT_NAME=0000:5e:00.0\0ERROR_EVENT=FAILED_RECOVERY\0";
            let link = [
                44, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0,
                3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0,
            ];
            vec![(uevent.to_vec(), 1), (link.to_vec(), 1)]
        }
        Stream::Mcelog => vec![([0x9c, 0, 0x41, 0].repeat(32), 1)],
    }
}

#[test]
fn every_seed_reaches_what_it_is_for() {
    for stream in Stream::ALL {
        for (bytes, records) in seeds(stream) {
            assert_eq!(stream.feed(&bytes), records, "{stream:?}");
        }
    }
}

/// Bytes that are changed, cut out, or put in, a few at a time, anywhere.
#[test]
fn no_mutation_is_fatal() {
    let config = Config { cases: 512, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let edit = (any::<prop::sample::Index>(), 0usize..4, prop::collection::vec(any::<u8>(), 0..12));
    let edits = (any::<prop::sample::Index>(), prop::collection::vec(edit, 0..8));
    for stream in Stream::ALL {
        let seeds = seeds(stream);
        let outcome = runner.run(&edits, |(seed, edits)| {
            let (mut bytes, _) = seed.get(&seeds).clone();
            for (at, removed, put_in) in edits {
                let at = at.index(bytes.len() + 1);
                let end = (at + removed).min(bytes.len());
                bytes.splice(at..end, put_in);
            }
            let _ = stream.feed(&bytes);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{stream:?}: {error}"));
    }
}
