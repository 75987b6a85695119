//! The cluster by its own commands: who is in it, what everybody has published, and what this node publishes.

use super::command::{CommandError, answer_of};
use crate::health::Colour;
use crate::health::gate::{Cluster, Peer};

/// The attribute that Pacemaker's health strategies and location rules look at.
pub(super) const HEALTH: &str = "#health-mce";

const MEMBERS: &str = "crm_mon";
const ATTRIBUTES: &str = "attrd_updater";

/// The exit status for what does not exist (`CRM_EX_NOSUCH` in crm/common/results.h).
const NO_SUCH: i32 = 105;

/// What the cluster knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) cluster: Cluster,
    /// What this node has published.
    pub(super) own: Option<String>,
}

impl View {
    /// Asks the cluster.
    pub(super) fn read(node: &str) -> Result<View, CommandError> {
        let members = answer_of(MEMBERS, &["--one-shot", "--output-as=xml", "--include=none,nodes"])?;
        View::parse(node, &members, &colours()?)
    }

    /// Asks only what everybody has published.
    pub(super) fn update_colours(&mut self, node: &str) -> Result<(), CommandError> {
        self.take_colours(node, &colours()?)
    }

    fn take_colours(&mut self, node: &str, values: &str) -> Result<(), CommandError> {
        let unreadable = |reason: String| CommandError::Unreadable { program: ATTRIBUTES, reason };
        let values = roxmltree::Document::parse(values).map_err(|error| unreadable(error.to_string()))?;
        let value = |host: &str| {
            values
                .descendants()
                .filter(|element| element.has_tag_name("attribute") && element.attribute("host") == Some(host))
                .find_map(|element| element.attribute("value"))
                .filter(|value| !value.is_empty())
        };
        self.own = value(node).map(str::to_owned);
        for peer in &mut self.cluster.peers {
            peer.colour = value(&peer.name).and_then(Colour::from_word).unwrap_or_default();
        }
        Ok(())
    }

    fn parse(node: &str, members: &str, values: &str) -> Result<View, CommandError> {
        let unreadable = |program| move |reason: String| CommandError::Unreadable { program, reason };
        let members = roxmltree::Document::parse(members).map_err(|error| unreadable(MEMBERS)(error.to_string()))?;
        let mut view = View::default();
        let mut found = false;
        for element in members.descendants().filter(|element| element.has_tag_name("node")) {
            let name = element.attribute("name").unwrap_or_default();
            let id = element.attribute("id").and_then(|id| id.parse().ok()).unwrap_or(0);
            if name == node {
                (view.cluster.own_id, found) = (id, true);
                continue;
            }
            let is = |flag| element.attribute(flag) == Some("true");
            let away =
                ["unclean", "pending", "standby", "standby_onfail", "maintenance", "shutdown"].into_iter().any(is);
            let online = is("online") && !away;
            view.cluster.peers.push(Peer { name: name.to_owned(), id, online, colour: Colour::default() });
        }
        if !found {
            let reason = format!("{node} is no node of this cluster; set cluster.node");
            return Err(unreadable(MEMBERS)(reason));
        }
        view.take_colours(node, values)?;
        Ok(view)
    }
}

/// What everybody has published.
fn colours() -> Result<String, CommandError> {
    match answer_of(ATTRIBUTES, &["--query", "--all", "--name", HEALTH, "--output-as=xml"]) {
        // Before anybody has published it nobody ever heard of the attribute. Any other failure must not read as "nobody is red".
        Err(CommandError::Failed { code: NO_SUCH, .. }) => Ok("<none/>".to_owned()),
        answer => answer,
    }
}

/// Publishes an attribute of this node, without dampening; an empty value takes it away.
pub(super) fn publish(node: &str, name: &str, value: &str) -> Result<(), CommandError> {
    if value.is_empty() {
        return answer_of(ATTRIBUTES, &["--name", name, "--node", node, "--delete"]).map(drop);
    }
    // In one word: a value may begin with a dash.
    let update = format!("--update={value}");
    answer_of(ATTRIBUTES, &["--name", name, "--node", node, &update, "--delay", "0"]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: &str = r#"<pacemaker-result api-version="2.25"><nodes>
  <node name="alpha" id="1" online="true" standby="false" standby_onfail="false" maintenance="false" pending="false" unclean="false" shutdown="false" type="member"/>
  <node name="beta" id="2" online="true" standby="false" standby_onfail="false" maintenance="false" pending="false" unclean="false" shutdown="false" type="member"/>
  <node name="gamma" id="3" online="true" standby="true" standby_onfail="false" maintenance="false" pending="false" unclean="false" shutdown="false" type="member"/>
</nodes></pacemaker-result>"#;
    const VALUES: &str = r##"<pacemaker-result api-version="2.25" request="attrd_updater">
  <attribute name="#health-mce" value="red" host="beta"/>
  <attribute name="#health-mce" value="yellow" host="alpha"/>
  <status code="0" message="OK"/></pacemaker-result>"##;

    #[test]
    fn as_pacemaker_prints_it() {
        let view = View::parse("alpha", MEMBERS, VALUES).expect("as printed");
        assert_eq!((view.cluster.own_id, view.own.as_deref()), (1, Some("yellow")));
        let peers: Vec<_> =
            view.cluster.peers.iter().map(|peer| (peer.name.as_str(), peer.id, peer.online, peer.colour)).collect();
        assert_eq!(peers, [("beta", 2, true, Colour::Red), ("gamma", 3, false, Colour::Green)]);
    }

    #[test]
    fn a_node_that_the_cluster_does_not_know_is_named() {
        let error = View::parse("delta", MEMBERS, "<none/>").expect_err("no such node");
        assert!(error.to_string().contains("delta is no node"), "{error}");
    }
}
