//! Who is in the cluster, who left it, who was fenced.

use super::{ClusterError, answer_of, cib, parse};
use crate::sabotage::{Bug, planted};

pub(super) const CRM_MON: &str = "crm_mon --output-as=xml";
const HISTORY: &str = "stonith_admin --history";
const NODE_STATE: &str = "cibadmin --query";

/// How a node stands in the cluster. What it follows from is at [`standing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Online: it reads the same CIB as this node.
    Member,
    /// Gone, or misbehaving, and still to be fenced.
    Unclean,
    /// Gone, and fencing it has succeeded.
    Fenced,
    /// Gone, after it had stopped all that ran there.
    Left,
    /// Gone, and that is all that is known.
    Lost,
    /// Not a node of this cluster.
    Stranger,
}

/// One line of crm_mon's list of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) online: bool,
    pub(crate) unclean: bool,
    pub(crate) pending: bool,
    pub(crate) standby: bool,
    pub(crate) maintenance: bool,
    pub(crate) shutdown: bool,
}

impl Node {
    /// Whether Pacemaker may promote a guest there, for all that the node is like.
    pub(crate) fn may_run_primary(&self) -> bool {
        self.online && !self.unclean && !self.pending && !self.standby && !self.maintenance && !self.shutdown
    }
}

/// The nodes, as crm_mon shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) fencing: bool,
    pub(crate) nodes: Vec<Node>,
}

impl Membership {
    /// Asks the cluster.
    pub(crate) fn read() -> Result<Membership, ClusterError> {
        let printed = answer_of("crm_mon", &["--one-shot", "--output-as=xml", "--include=none,options,nodes"])?;
        Membership::of(&parse(CRM_MON, &printed)?)
    }

    /// As crm_mon has printed it, among other things.
    pub(super) fn of(document: &roxmltree::Document<'_>) -> Result<Membership, ClusterError> {
        let unreadable = |reason: &str| ClusterError::Unreadable { command: CRM_MON, reason: reason.to_owned() };
        let options = document
            .descendants()
            .find(|element| element.has_tag_name("cluster_options"))
            .ok_or_else(|| unreadable("no cluster options"))?;
        let fencing = flag(options, "stonith-enabled").ok_or_else(|| unreadable("no stonith-enabled"))?;
        let nodes = document
            .descendants()
            .find(|element| element.has_tag_name("nodes"))
            .ok_or_else(|| unreadable("no list of nodes"))?
            .children()
            .filter(|element| element.has_tag_name("node"))
            .map(|element| node(element).ok_or_else(|| unreadable("a node without name or state")))
            .collect::<Result<_, _>>()?;
        Ok(Membership { fencing, nodes })
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// How `name` stands. What that needs besides the membership is asked for only if the node is gone.
    pub(crate) fn standing_of(&self, name: &str) -> Result<Standing, ClusterError> {
        let node = self.node(name);
        let gone = node.is_some_and(|node| !node.online && !node.unclean);
        let fenced = gone && self.fencing && was_fenced(&answer_of("stonith_admin", &history_of(name))?, name)?;
        let left = gone && !fenced && cib::node_state(name)?.map_or(Ok(false), |xml| left_cleanly(&xml))?;
        Ok(standing(node, fenced, left))
    }
}

fn history_of(name: &str) -> [&str; 3] {
    ["--history", name, "--output-as=xml"]
}

/// How a node stands, given whether the history has a success of fencing it, and whether its state says that it left.
///
/// A node that vanishes is unclean at once where fencing is enabled, and until it was fenced: an old success in the history
/// cannot make a node that vanished just now look fenced.
fn standing(node: Option<&Node>, fenced: bool, left: bool) -> Standing {
    match node {
        None => Standing::Stranger,
        Some(node) if node.unclean => Standing::Unclean,
        // Pending: it has joined corosync, and not yet the cluster.
        Some(node) if node.online && !node.pending => Standing::Member,
        Some(_) if fenced || planted(Bug::LostIsFenced) => Standing::Fenced,
        Some(node) if left && !node.online => Standing::Left,
        Some(_) => Standing::Lost,
    }
}

fn node(element: roxmltree::Node<'_, '_>) -> Option<Node> {
    Some(Node {
        name: element.attribute("name")?.to_owned(),
        online: flag(element, "online")?,
        unclean: flag(element, "unclean")?,
        pending: flag(element, "pending")?,
        standby: flag(element, "standby")? || flag(element, "standby_onfail")?,
        maintenance: flag(element, "maintenance")?,
        shutdown: flag(element, "shutdown")?,
    })
}

fn flag(element: roxmltree::Node<'_, '_>, name: &str) -> Option<bool> {
    match element.attribute(name)? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Whether the history knows a success of taking `name` down.
fn was_fenced(xml: &str, name: &str) -> Result<bool, ClusterError> {
    let document = parse(HISTORY, xml)?;
    Ok(document.descendants().filter(|element| element.has_tag_name("fence_event")).any(|event| {
        event.attribute("target") == Some(name)
            && event.attribute("status") == Some("success")
            && matches!(event.attribute("action"), Some("reboot" | "off"))
    }))
}

/// Whether a node's state says that it was let go: the controller on duty expects it down once it has told it to end, which
/// it does after everything there was stopped. A node that vanishes is still expected to be a member; of one that was
/// never seen there is no state.
fn left_cleanly(xml: &str) -> Result<bool, ClusterError> {
    let document = parse(NODE_STATE, xml)?;
    let state = document.root_element();
    let is = |name, value| state.attribute(name) == Some(value);
    Ok(state.has_tag_name("node_state") && is("crmd", "offline") && is("join", "down") && is("expected", "down"))
}

#[cfg(test)]
mod tests;
