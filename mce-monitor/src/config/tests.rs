use super::*;
use crate::health::Limits;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/m.toml")).map_err(|error| error.to_string())
}

#[test]
fn nothing_is_enough() {
    let config = parse("").expect("all defaults");
    assert_eq!(config.thresholds, Thresholds::default());
    assert_eq!(config.sources.tracefs, Path::new("/sys/kernel/tracing"));
}

#[test]
fn thresholds_are_set_one_by_one() {
    let config = parse(
        "[memory]\ncorrected_yellow = \"3 / 1h\"\nquiet = \"1h\"\n[pci]\nused_by_guests = [\"0000:5e:00.0\"]\n\
         [block]\nerrors_red = \"off\"\n[thermal]\nthrottled_red = \"60 / 10m\"\n",
    )
    .expect("a configuration");
    let memory = config.thresholds.memory;
    assert_eq!(memory.corrected_yellow.0.map(|rule| rule.to_string()).as_deref(), Some("3 / 1h"));
    assert_eq!(memory.corrected_red, Limits::of(crate::fault::Component::Memory).corrected_red);
    assert_eq!(memory.quiet.0, Duration::from_secs(3600));
    assert_eq!(config.thresholds.block.uncorrected_red.0, None);
    assert_eq!(config.thresholds.thermal.corrected_red.0.map(|rule| rule.threshold), Some(60));
    assert_eq!(config.thresholds.pci_of_guests, ["0000:5e:00.0"]);
}

#[test]
fn what_is_wrong_is_named_with_its_value_and_a_remedy() {
    for (text, words) in [
        ("[memory]\ncorrected_yelow = \"3 / 1h\"\n", ["corrected_yelow", "3 / 1h", "corrected_yellow"]),
        ("[memory]\ncorrected_yellow = \"3 per hour\"\n", ["corrected_yellow", "3 per hour", "10 / 24h"]),
        ("[thermal]\nquiet = \"soon\"\n", ["quiet", "soon", "24h"]),
        ("[daemon]\ncontrol = \"m.sock\"\n", ["daemon.control", "m.sock", "begin it with /"]),
        ("[daemon]\nparts_max = 1\n", ["daemon.parts_max", "1", "16 to 65536"]),
        ("[cluster]\nnode = \"a b\"\n", ["cluster.node", "a b", "crm_node"]),
        ("[guests]\npace_ms = 0\n", ["guests.pace_ms", "0", "60000"]),
        ("[sources]\ninstance = \"../x\"\n", ["sources.instance", "../x", "letters"]),
    ] {
        let error = parse(text).expect_err(text);
        for word in words {
            assert!(error.contains(word), "{word} is not in: {error}");
        }
    }
    let both = parse("[daemon]\ncontrol = \"a\"\nstate = \"b\"\n").expect_err("two things are wrong");
    assert_eq!(both.lines().count(), 2, "{both}");
}
