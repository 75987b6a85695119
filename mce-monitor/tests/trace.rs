//! Raw traces: formats of other kernels, entries of every kind, and pages that no kernel would write.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says by these what it wanted")]

mod support;

use std::fs;

use kemari_mce_monitor::health::{Health, Thresholds};
use kemari_mce_monitor::replay::{Replay, from_text, replay};
use kemari_mce_monitor::trace::{Format, Page, PageLayout};
use proptest::prelude::*;
use support::{Value, fits, format_text, mc_event, page, record};

/// Replays pages with these formats, as `kemari-mce-monitor replay` does.
fn replayed(pages: &[Vec<u8>], formats: &[&str]) -> Replay {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut paths = Vec::new();
    for (index, format) in formats.iter().enumerate() {
        paths.push(directory.path().join(format!("{index}.format")));
        fs::write(&paths[index], format).expect("writable");
    }
    let raw = directory.path().join("raw");
    fs::write(&raw, pages.concat()).expect("writable");
    paths.push(raw);
    replay(&paths, Health::new(Thresholds::default(), 64)).expect("readable")
}

fn said(replay: &Replay) -> Vec<&str> {
    replay.steps.iter().map(|step| step.said.as_str()).collect()
}

/// An Intel SRAO, by the fields of `mce_record`.
fn srao(format: &str) -> Vec<u8> {
    let values = [
        ("mcgstatus", 5),
        ("status", 0xbd00_0000_0000_00c0),
        ("addr", 0x3100_0000),
        ("misc", 0x8c),
        ("cpu", 3),
        ("cpuid", 0x50654),
        ("socketid", 1),
        ("bank", 9),
        ("cpuvendor", 0),
    ];
    record(format, &values.map(|(name, value)| (name, Value::Number(value))))
}

const SRAO: &str = "SRAO     memory socket1 bank9 channel0 at 0x31000000: cpu 3 bank 9 status bd000000000000c0";

/// drivers/nvme/host/trace.h: an error or a bad SMART value counts, a notice does not.
#[test]
fn a_controller_that_reports_by_itself() {
    let format = "name: nvme_async_event\nID: 12\nformat:\n\tfield:int ctrl_id;\toffset:8;\tsize:4;\tsigned:1;\n\
                  \tfield:u32 result;\toffset:12;\tsize:4;\tsigned:0;\n\nprint fmt: \"nvme%d\"\n";
    let event = |result| record(format, &[("ctrl_id", Value::Number(3)), ("result", Value::Number(result))]);
    let found = replayed(&[page(0, 0, &[event(0x02_0101), event(0x0c_0002)])], &[format]);
    assert_eq!(found.steps.len(), 1);
    assert_eq!(found.steps[0].place.as_deref(), Some("block nvme3"));
}

/// drivers/cxl/core/trace.h, as far as it is read.
#[test]
fn memory_on_cxl_tells_of_itself() {
    let header = |name: &str, id: u32| {
        format!(
            "name: {name}\nID: {id}\nformat:\n\tfield:__data_loc char[] memdev;\toffset:8;\tsize:4;\tsigned:0;\n\
                 \tfield:__data_loc char[] host;\toffset:12;\tsize:4;\tsigned:0;\n"
        )
    };
    let media = header("cxl_dram", 21)
        + "\tfield:int log;\toffset:16;\tsize:4;\tsigned:1;\n\tfield:u64 dpa;\toffset:24;\tsize:8;\tsigned:0;\n\
           \tfield:u8 descriptor;\toffset:32;\tsize:1;\tsigned:0;\n\tfield:u64 hpa;\toffset:40;\tsize:8;\tsigned:0;\n";
    let link = header("cxl_aer_uncorrectable_error", 22) + "\tfield:u32 status;\toffset:16;\tsize:4;\tsigned:0;\n";
    let names = [("memdev", Value::Text("mem0")), ("host", Value::Text("0000:35:00.0"))];
    let of_media = |log, descriptor, hpa| {
        let numbers = [("log", log), ("dpa", 0x40), ("descriptor", descriptor), ("hpa", hpa)];
        let numbers = numbers.map(|(name, value)| (name, Value::Number(value)));
        record(&media, &[&names[..], &numbers].concat())
    };
    let records = [
        of_media(1, 2, u64::MAX),
        of_media(2, 1, 0x12_3456_7000),
        of_media(3, 5, 0x12_3456_8000),
        record(&link, &[&names[..], &[("status", Value::Number(1 << 10))]].concat()),
    ];
    let found = replayed(&[page(0, 0, &records)], &[&media, &link]);
    let told = "told by the firmware";
    assert_eq!(
        said(&found),
        [
            format!("CE       memory mem0: {told}"),
            format!("UE       memory mem0 at 0x1234567000: {told}"),
            format!("FATAL    memory mem0 at 0x1234568000: {told}"),
            format!("UE       pci 0000:35:00.0: {told}"),
        ]
    );
}

#[test]
fn records_are_read_by_their_formats() {
    let (mce, edac) = (format_text("mce_record"), format_text("mc_event"));
    let records = [mc_event(&edac, 0, "DIMM_A1", 0x1000), srao(&mce), mc_event(&edac, 1, "DIMM_B1", 0x2000)];
    let found = replayed(&[page(5_000_000_000, 1000, &records)], &[&mce, &edac]);
    assert_eq!(
        said(&found),
        [
            "CE       memory DIMM_A1 at 0x1000: memory read error",
            SRAO,
            "UE       memory DIMM_B1 at 0x2000: memory read error"
        ]
    );
    assert!((found.steps[0].at_s - 5.000_001).abs() < 1e-9);
    assert!((found.steps[2].at_s - 5.000_003).abs() < 1e-9);
}

#[test]
fn severity_of_pci_express_is_the_number_s() {
    let format = format_text("aer_event");
    let of = |severity, status| {
        let values = [
            ("dev_name", Value::Text("0000:05:00.0")),
            ("severity", Value::Number(severity)),
            ("status", Value::Number(status)),
        ];
        let found = replayed(&[page(0, 0, &[record(&format, &values)])], &[&format]);
        said(&found)[0][..8].trim_end().to_owned()
    };
    assert_eq!([of(0, 0x40), of(1, 0x4000), of(2, 0x40)], ["UE", "FATAL", "CE"]);
}

#[test]
fn entries_that_are_no_records_are_passed_over() {
    let format = Format::parse(&format_text("mc_event")).expect("a format");
    let event = mc_event(&format_text("mc_event"), 0, "D", 0);
    let whole = page(1000, 7, std::slice::from_ref(&event));
    let length = u64::from_le_bytes(whole[8..16].try_into().expect("eight")) as usize;
    let data = &whole[16..16 + length];
    let mut bytes = Vec::new();
    // A time extend of 2^27 + 5 ns, padding of 8 bytes, the record, an absolute time, the record, and the end.
    bytes.extend_from_slice(&(5u32 << 5 | 30).to_le_bytes());
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&(1u32 << 5 | 29).to_le_bytes());
    bytes.extend_from_slice(&8u32.to_le_bytes());
    bytes.extend_from_slice(&[0xff; 4]);
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(&(9u32 << 5 | 31).to_le_bytes());
    bytes.extend_from_slice(&2u32.to_le_bytes());
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(&29u32.to_le_bytes());
    bytes.extend_from_slice(data);
    let mut raw = 1000u64.to_le_bytes().to_vec();
    raw.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    raw.extend_from_slice(&bytes);
    let events: Vec<_> = Page::new(&raw, PageLayout::default()).collect();
    let clocks: Vec<u64> = events.iter().map(|event| event.clock_ns).collect();
    assert_eq!(clocks, [1000 + (1 << 27) + 5 + 1 + 7, (2 << 27) + 9 + 7]);
    assert!(events.iter().all(|found| found.bytes == event));
    assert_eq!(format.fields(events[0].bytes).text("label").as_deref(), Some("D"));
}

#[test]
fn losses_are_told() {
    let mut raw = page(0, 0, &[]);
    let lost = |raw: &[u8]| Page::new(raw, PageLayout::default()).lost;
    assert_eq!(lost(&raw), None);
    raw[8..16].copy_from_slice(&(1u64 << 31).to_le_bytes());
    assert_eq!(lost(&raw), Some(0));
    raw[8..16].copy_from_slice(&(3u64 << 30).to_le_bytes());
    raw[16..24].copy_from_slice(&77u64.to_le_bytes());
    assert_eq!(lost(&raw), Some(77));
}

#[test]
fn the_layout_of_pages_is_the_kernel_s() {
    let text = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
                \tfield: char data;\toffset:16;\tsize:16368;\tsigned:0;\n";
    assert_eq!(PageLayout::parse(text), PageLayout { data_offset: 16, page_bytes: 16_384 });
    assert_eq!(PageLayout::parse("nonsense"), PageLayout::default());
}

/// The fields of `mce_record` that are read, with the sizes they may have.
const FIELDS: [(&str, &[usize]); 9] = [
    ("mcgstatus", &[8]),
    ("status", &[8]),
    ("addr", &[8]),
    ("misc", &[8]),
    ("cpu", &[2, 4, 8]),
    ("cpuid", &[4, 8]),
    ("socketid", &[1, 2, 4]),
    ("bank", &[1, 4, 8]),
    ("cpuvendor", &[1, 2, 4]),
];

/// A format of a kernel that there is not: other fields, in another order, of other sizes.
fn other_kernel() -> impl Strategy<Value = String> {
    let fields: Vec<(String, usize)> = Vec::new();
    let known = FIELDS.iter().fold(Just(fields).boxed(), |fields, (name, sizes)| {
        (fields, prop::sample::select(*sizes))
            .prop_map(|(mut fields, size)| {
                fields.push(((*name).to_owned(), size));
                fields
            })
            .boxed()
    });
    let added = prop::collection::vec(prop::sample::select(&[1usize, 2, 4, 8, 16][..]), 0..6);
    (known, added)
        .prop_map(|(mut fields, added)| {
            fields.extend(added.into_iter().enumerate().map(|(index, size)| (format!("added_{index}"), size)));
            fields
        })
        .prop_shuffle()
        .prop_map(|fields| {
            let mut text = "name: mce_record\nID: 4711\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n".to_owned();
            let mut offset = 8usize;
            for (name, size) in fields {
                offset = offset.next_multiple_of(size.min(8));
                text += &format!("\tfield:u64 {name};\toffset:{offset};\tsize:{size};\tsigned:0;\n");
                offset += size;
            }
            text + "\nprint fmt: \"whatever\"\n"
        })
}

/// The format of `mc_event` in a kernel that has its fields in another order, and says where texts are from the record's beginning or
/// from their fields' end; and a record by it.
fn other_mc_event() -> impl Strategy<Value = (String, Vec<u8>)> {
    let numbers = [("error_type", 4, 1), ("error_count", 2, 3), ("mc_index", 1, 0), ("address", 8, 0x7000)];
    let fields: Vec<(&str, usize, Result<u64, &str>)> = numbers
        .into_iter()
        .map(|(name, size, value)| (name, size, Ok(value)))
        .chain([("label", 4, Err("DIMM_C2")), ("msg", 4, Err("memory read error")), ("driver_detail", 4, Err(""))])
        .collect();
    (Just(fields).prop_shuffle(), any::<bool>()).prop_map(|(fields, relative)| {
        let located = if relative { "__rel_loc" } else { "__data_loc" };
        let mut format = "name: mc_event\nID: 99\nformat:\n".to_owned();
        let mut bytes = vec![99, 0, 0, 0, 0, 0, 0, 0];
        let mut texts = Vec::new();
        for (name, size, value) in fields {
            bytes.resize(bytes.len().next_multiple_of(size), 0);
            let offset = bytes.len();
            let declaration = if value.is_ok() { "u64".to_owned() } else { format!("{located} char[]") };
            format += &format!("\tfield:{declaration} {name};\toffset:{offset};\tsize:{size};\tsigned:0;\n");
            match value {
                Ok(number) => bytes.extend(&number.to_le_bytes()[..size]),
                Err(text) => {
                    bytes.extend([0; 4]);
                    texts.push((offset, text));
                }
            }
        }
        for (offset, text) in texts {
            let begins = if relative { bytes.len() - (offset + 4) } else { bytes.len() };
            let pointer = u32::try_from((text.len() + 1) << 16 | begins).expect("short");
            bytes[offset..offset + 4].copy_from_slice(&pointer.to_le_bytes());
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        (format + "\nprint fmt: \"whatever\"\n", bytes)
    })
}

proptest! {
    #[test]
    fn texts_are_found_wherever_they_are((format, bytes) in other_mc_event()) {
        let found = replayed(&[page(0, 0, &[bytes])], &[&format]);
        prop_assert_eq!(said(&found), ["UE       memory DIMM_C2 x3 at 0x7000: memory read error"]);
    }

    #[test]
    fn a_format_of_another_kernel_is_read_alike(format in other_kernel()) {
        let found = replayed(&[page(0, 0, &[srao(&format)])], &[&format]);
        prop_assert_eq!(said(&found), [SRAO]);
    }

    #[test]
    fn a_page_cut_anywhere_gives_what_was_before_the_cut(records in 0usize..30, cut in 0usize..4096) {
        let format = format_text("mc_event");
        let event = mc_event(&format, 0, "D", 0);
        let records = records.min(fits(event.len()));
        let raw = page(0, 0, &vec![event; records]);
        let events: Vec<_> = Page::new(&raw[..cut], PageLayout::default()).collect();
        prop_assert!(events.len() <= records);
        let whole: Vec<_> = Page::new(&raw, PageLayout::default()).take(events.len()).collect();
        prop_assert_eq!(events, whole);
    }

    #[test]
    fn no_page_and_no_format_is_fatal(raw in prop::collection::vec(any::<u8>(), 0..5000), format in "(field:[a-z_ ]{0,9};?|[a-z]+:[0-9]{0,21};|\t|\n|ID: 7|name: x|__data_loc char\\[\\] m;)*") {
        for event in Page::new(&raw, PageLayout::default()) {
            prop_assert!(event.bytes.len() <= raw.len());
        }
        for text in ["mce_record", "mc_event", "extlog_mem_event", "block_rq_error", "aer_event", "memory_failure_event"] {
            let mut one = page(0, 0, &[]);
            let length = raw.len().min(4000);
            one[16..16 + length].copy_from_slice(&raw[..length]);
            one[8..16].copy_from_slice(&(length as u64).to_le_bytes());
            replayed(&[one], &[&format_text(text)]);
        }
        if let Ok(format) = Format::parse(&format) {
            prop_assert!(format.fields(&raw).text("m").is_none_or(|text| text.len() <= 3 * raw.len()));
        }
    }

    /// Fields that point anywhere, with the number of the event in front so that they are looked at.
    #[test]
    fn no_record_is_fatal(mut raw in prop::collection::vec(any::<u8>(), 0..112), event in prop::sample::select(&["mce_record", "mc_event", "extlog_mem_event", "block_rq_error", "aer_event", "memory_failure_event", "non_standard_event"][..])) {
        let format = format_text(event);
        let id = record(&format, &[])[..2].to_vec();
        raw.splice(..raw.len().min(2), id);
        raw.resize(raw.len().next_multiple_of(4), 0);
        let found = replayed(&[page(0, 0, &[raw])], &[&format]);
        prop_assert!(found.steps.len() <= 1);
    }

    #[test]
    fn no_line_is_fatal(lines in prop::collection::vec(".{0,120}", 0..8)) {
        prop_assert!(from_text(&lines.join("\n")).len() <= 2 * lines.len());
    }

    /// Lines of real captures, cut, repeated and mixed.
    #[test]
    fn no_mixture_of_lines_is_fatal(picks in prop::collection::vec((any::<prop::sample::Index>(), 0usize..200), 0..40)) {
        let samples = fs::read_to_string(support::fixture("samples.txt")).expect("samples");
        let trace = fs::read_to_string(support::fixture("mce-epyc-hypervisor.trace")).expect("a trace");
        let lines: Vec<&str> = samples.lines().chain(trace.lines()).collect();
        let mixed: Vec<&str> = picks.iter().map(|(line, cut)| {
            let line = line.get(&lines);
            let end = (0..=(*cut).min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
            if *cut > 150 { line } else { &line[..end] }
        }).collect();
        prop_assert!(from_text(&mixed.join("\n")).len() <= 2 * mixed.len());
    }
}
