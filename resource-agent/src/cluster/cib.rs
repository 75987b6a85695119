//! The one door through which the record is read and changed.
//!
//! A change is a compare-and-swap: its XPath names the value that is to be replaced, and so matches nothing once another node
//! has replaced it. Pacemaker carries out one change after the other on the whole cluster, so of two that race one is lost.
//! A command that was stopped and goes on an hour later is lost likewise.

use super::{COMMAND_LIMIT, ClusterError, failed, parse, run};
use crate::authority::Record;
use crate::sabotage::{Bug, planted};

/// CRM_EX_NOSUCH: the XPath matched nothing.
const NO_SUCH_OBJECT: i32 = 105;
/// CRM_EX_EXISTS.
const EXISTS: i32 = 108;

/// The record as it is in the CIB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// To the letter, which is what a swap compares. An operator may have written it.
    text: String,
    pub(crate) record: Record,
}

#[cfg(test)]
impl From<Record> for Stored {
    fn from(record: Record) -> Stored {
        Stored { text: record.to_string(), record }
    }
}

/// How a change ended. That it may have taken effect or not is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swap {
    Won,
    /// Another value was there first.
    Lost,
}

/// The way to the record of one guest.
#[derive(Clone, Debug)]
pub(crate) struct RecordDoor {
    guest: String,
}

impl RecordDoor {
    /// `guest` is a name that needs no quoting.
    pub(crate) fn new(guest: &str) -> RecordDoor {
        RecordDoor { guest: guest.to_owned() }
    }

    /// What `crm_attribute --set-name kemari` would call it, so that both mean the same one.
    fn id(&self) -> String {
        format!("kemari-kemari-{}", self.guest)
    }

    /// The record, if there is one.
    pub(crate) fn read(&self) -> Result<Option<Stored>, ClusterError> {
        let xpath = format!("//nvpair[@id='{}']", self.id());
        let outcome = run("cibadmin", &["--query", "--xpath", &xpath], COMMAND_LIMIT)?;
        match outcome.code {
            Some(0) => stored(&outcome.stdout).map(Some),
            Some(NO_SUCH_OBJECT) => Ok(None),
            _ => Err(failed("cibadmin --query", &outcome)),
        }
    }

    /// Replaces `from` by `to` if `from` is still there.
    pub(crate) fn swap(&self, from: &Stored, to: &Record) -> Result<Swap, ClusterError> {
        let id = self.id();
        let mut xpath = format!("//nvpair[@id='{id}'][@value='{}']", from.text);
        if planted(Bug::SwapWithoutCompare) {
            xpath = format!("//nvpair[@id='{id}']");
        }
        modify(&xpath, &format!("<nvpair id=\"{id}\" value=\"{to}\"/>"))
    }

    /// Makes the record if there is none.
    pub(crate) fn create(&self, record: &Record) -> Result<Swap, ClusterError> {
        let (id, guest) = (self.id(), &self.guest);
        let set = format!(
            "<cluster_property_set id=\"kemari\"><nvpair id=\"{id}\" name=\"kemari-{guest}\" value=\"{record}\"/></cluster_property_set>"
        );
        let arguments = ["--sync-call", "--create", "--scope", "crm_config", "--xml-text", &set];
        let outcome = run("cibadmin", &arguments, COMMAND_LIMIT)?;
        match outcome.code {
            Some(0) => Ok(Swap::Won),
            // The set exists, for another guest perhaps: this one's record is added to it, again only if there is none.
            Some(EXISTS) => modify(&format!("//cluster_property_set[@id='kemari'][not(nvpair[@id='{id}'])]"), &set),
            _ => Err(failed("cibadmin --create", &outcome)),
        }
    }
}

fn modify(xpath: &str, xml: &str) -> Result<Swap, ClusterError> {
    let arguments = ["--sync-call", "--modify", "--xpath", xpath, "--xml-text", xml];
    let outcome = run("cibadmin", &arguments, COMMAND_LIMIT)?;
    match outcome.code {
        Some(0) => Ok(Swap::Won),
        Some(NO_SUCH_OBJECT) => Ok(Swap::Lost),
        _ => Err(failed("cibadmin --modify", &outcome)),
    }
}

fn stored(xml: &str) -> Result<Stored, ClusterError> {
    let unreadable = |reason: String| ClusterError::Unreadable { command: "cibadmin --query", reason };
    let document = parse("cibadmin --query", xml)?;
    let text = document
        .root_element()
        .attribute("value")
        .ok_or_else(|| unreadable("a record without value".to_owned()))?
        .to_owned();
    let record = text.parse::<Record>().map_err(|error| unreadable(error.to_string()))?;
    Ok(Stored { text, record })
}

/// What the CIB says about a node that is not there.
pub(crate) fn node_state(node: &str) -> Result<Option<String>, ClusterError> {
    let xpath = format!("//node_state[@uname='{node}']");
    let outcome = run("cibadmin", &["--query", "--xpath", &xpath], COMMAND_LIMIT)?;
    match outcome.code {
        Some(0) => Ok(Some(outcome.stdout)),
        Some(NO_SUCH_OBJECT) => Ok(None),
        _ => Err(failed("cibadmin --query", &outcome)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_that_is_swapped_is_the_one_that_is_there() {
        let stored = stored("<nvpair id=\"kemari-kemari-web\" name=\"kemari-web\" value=\"7 9f3 alpha,beta\"/>\n")
            .expect("a record");
        assert_eq!(stored.text, "7 9f3 alpha,beta");
        assert_eq!(stored.record.to_string(), "7 00000000000009f3 alpha,beta 0");
    }

    #[test]
    fn what_is_no_record_is_an_error_and_not_a_missing_one() {
        for xml in ["", "<nvpair/>", "<nvpair value=\"\"/>", "<nvpair value=\"7 9f3 al&apos;pha\"/>", "<xpath-query>"] {
            assert!(matches!(stored(xml), Err(ClusterError::Unreadable { .. })), "{xml:?}");
        }
    }
}
