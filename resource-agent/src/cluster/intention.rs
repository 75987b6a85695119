//! What the cluster is to do with a resource: whether a node is to run its primary, and which nodes may.

use super::membership::{CRM_MON, Node};
use super::{ClusterError, Membership, answer_of, parse};

/// What is intended with one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intention {
    /// Whether there is to be a primary anywhere.
    pub(crate) wants_primary: bool,
    pub(crate) membership: Membership,
    /// Nodes where a constraint forbids it, in either role or as a primary.
    banned: Vec<String>,
}

/// The weight by which a constraint forbids (-INFINITY in Pacemaker's numbers). One that weighs less is a wish.
const FORBIDS: i64 = -1_000_000;

impl Intention {
    /// Asks the cluster about `resource`, all with one question: a guest stands still meanwhile, or is about to.
    pub(crate) fn read(resource: &str) -> Result<Intention, ClusterError> {
        // Of all resources: asked about one alone it says nothing about bans of the clone around it.
        let sections = "--include=none,options,nodes,resources,bans";
        let arguments = ["--one-shot", "--output-as=xml", sections, "--inactive"];
        Intention::parse(&answer_of("crm_mon", &arguments)?, resource)
    }

    fn parse(xml: &str, resource: &str) -> Result<Intention, ClusterError> {
        let document = parse(CRM_MON, xml)?;
        let membership = Membership::of(&document)?;
        let stop_all = document
            .descendants()
            .filter(|element| element.has_tag_name("cluster_options"))
            .any(|options| options.attribute("stop-all-resources") != Some("false"));
        // By what Pacemaker makes of the configuration: a role may be set on the primitive, its template, what is around it, or for
        // all. An instance may have a number.
        let is_it = |id: &str| id.split(':').next() == Some(resource);
        let instances: Vec<_> = document
            .descendants()
            .filter(|element| element.has_tag_name("resource") && element.attribute("id").is_some_and(is_it))
            .collect();
        // It, and what is around it.
        let all = || instances.iter().flat_map(roxmltree::Node::ancestors);
        let role_forbids = all().any(|element| element.attribute("target_role").is_some_and(forbids_a_primary));
        // What is not configured any more is on its way out.
        let leaves = instances.iter().all(|instance| instance.attribute("orphaned") == Some("true"));
        let forbids = |ban: &roxmltree::Node<'_, '_>| {
            let weight = ban.attribute("weight").and_then(|weight| weight.parse().ok());
            let is_about_it = || all().any(|element| element.attribute("id") == ban.attribute("resource"));
            ban.has_tag_name("ban") && weight.is_some_and(|weight: i64| weight <= FORBIDS) && is_about_it()
        };
        let banned = document.descendants().filter(forbids).filter_map(|ban| ban.attribute("node")).map(str::to_owned);
        Ok(Intention { wants_primary: !stop_all && !role_forbids && !leaves, membership, banned: banned.collect() })
    }

    /// Whether a primary may run on a node.
    pub(crate) fn may_run_primary(&self, node: &Node) -> bool {
        self.wants_primary && node.may_run_primary() && !self.banned.contains(&node.name)
    }
}

fn forbids_a_primary(role: &str) -> bool {
    ["stopped", "unpromoted", "slave"].contains(&role.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by Pacemaker 2.1.5, where nothing says what the role is to be.
    const PRINTED: &str = r#"<pacemaker-result api-version="2.25" request="crm_mon">
  <summary>
    <cluster_options stonith-enabled="false" symmetric-cluster="true" no-quorum-policy="stop" maintenance-mode="false" stop-all-resources="false" stonith-timeout-ms="60000" priority-fencing-delay-ms="0"/>
  </summary>
  <nodes>
    <node name="alpha" id="1" online="true" standby="false" standby_onfail="false" maintenance="false" pending="false" unclean="false" health="green" feature_set="3.16.1" shutdown="false" expected_up="true" is_dc="true" resources_running="1" type="member"/>
  </nodes>
  <resources>
    <clone id="web-clone" multi_state="true" unique="false" managed="true" disabled="false" failed="false" failure_ignored="false">
      <resource id="web" resource_agent="ocf:kemari:guest" role="Promoted" active="true" orphaned="false" blocked="false" managed="true" failed="false" failure_ignored="false" nodes_running_on="1">
        <node name="alpha" id="1" cached="true"/>
      </resource>
      <resource id="web" resource_agent="ocf:kemari:guest" role="Stopped" active="false" orphaned="false" blocked="false" managed="true" failed="false" failure_ignored="false" nodes_running_on="0"/>
    </clone>
  </resources>
  <status code="0" message="OK"/>
</pacemaker-result>"#;

    fn wants_primary(changes: &[(&str, &str)]) -> bool {
        let xml = changes.iter().fold(PRINTED.to_owned(), |xml, (from, to)| {
            assert!(xml.contains(from), "{from}");
            xml.replacen(from, to, 1)
        });
        let intention = Intention::parse(&xml, "web").expect("as printed");
        assert_eq!(intention.membership.nodes.len(), 1);
        intention.wants_primary
    }

    /// Whether a primary may run on alpha, with these bans.
    fn may_run(bans: &str) -> bool {
        let xml = PRINTED.replace("<status", &format!("<bans>{bans}</bans><status"));
        let intention = Intention::parse(&xml, "web").expect("as printed");
        intention.membership.nodes.iter().any(|node| intention.may_run_primary(node))
    }

    #[test]
    fn a_node_is_banned_by_what_forbids_and_not_by_a_wish() {
        let ban = |resource: &str, node: &str, weight: i64| {
            format!(r#"<ban id="b" resource="{resource}" node="{node}" weight="{weight}" promoted-only="true"/>"#)
        };
        assert!(may_run(""));
        assert!(!may_run(&ban("web-clone", "alpha", FORBIDS)) && !may_run(&ban("web", "alpha", FORBIDS)));
        for (resource, node, weight) in
            [("web-clone", "alpha", -90), ("web-clone", "beta", FORBIDS), ("db-clone", "alpha", FORBIDS)]
        {
            assert!(may_run(&ban(resource, node, weight)), "{resource} {node} {weight}");
        }
    }

    #[test]
    fn a_role_that_forbids_promotion_anywhere_around_the_resource_counts() {
        let clone_role = |role: &'static str| ("multi_state=\"true\"", role);
        let role = |role: &'static str| ("role=\"Promoted\"", role);
        assert!(wants_primary(&[]));
        assert!(wants_primary(&[clone_role("target_role=\"Started\""), role("target_role=\"Promoted\"")]));
        assert!(!wants_primary(&[clone_role("target_role=\"Stopped\"")]));
        assert!(!wants_primary(&[role("target_role=\"Stopped\"")]));
        assert!(!wants_primary(&[role("target_role=\"unpromoted\"")]));
        assert!(!wants_primary(&[role("target_role=\"Slave\"")]));
    }

    #[test]
    fn what_is_to_stop_with_everything_or_is_deleted_has_no_primary() {
        assert!(!wants_primary(&[("stop-all-resources=\"false\"", "stop-all-resources=\"true\"")]));
        let orphan = ("orphaned=\"false\"", "orphaned=\"true\"");
        assert!(!wants_primary(&[orphan, orphan]));
        let other = PRINTED.replace("id=\"web\"", "id=\"website\"");
        assert!(!Intention::parse(&other, "web").expect("as printed").wants_primary);
        let numbered = PRINTED.replace("id=\"web\"", "id=\"web:0\"");
        assert!(Intention::parse(&numbered, "web").expect("as printed").wants_primary);
    }

    #[test]
    fn half_an_answer_is_none() {
        assert!(Intention::parse("", "web").is_err());
        assert!(Intention::parse(&PRINTED.replace("stonith-enabled=\"false\" ", ""), "web").is_err());
    }
}
