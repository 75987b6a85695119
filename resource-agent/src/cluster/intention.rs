//! What the cluster is to do with a resource: whether a node is to run its primary, and which nodes may.

use super::membership::CRM_MON;
use super::{ClusterError, Membership, answer_of, parse};

/// What is intended with one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intention {
    /// Whether there is to be a primary anywhere.
    pub(crate) wants_primary: bool,
    pub(crate) membership: Membership,
}

impl Intention {
    /// Asks the cluster about `resource`, all with one question: a guest stands still meanwhile, or is about to.
    pub(crate) fn read(resource: &str) -> Result<Intention, ClusterError> {
        let sections = "--include=none,options,nodes,resources";
        let arguments = ["--one-shot", "--output-as=xml", sections, "--inactive", "--resource", resource];
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
        let mut instances = document
            .descendants()
            .filter(|element| element.has_tag_name("resource") && element.attribute("id").is_some_and(is_it))
            .peekable();
        // What is not configured any more is on its way out.
        let configured = instances.peek().is_some();
        let forbidden = instances.any(|instance| {
            let role =
                |element: roxmltree::Node<'_, '_>| element.attribute("target_role").is_some_and(forbids_a_primary);
            instance.attribute("orphaned") == Some("true") || instance.ancestors().any(role)
        });
        Ok(Intention { wants_primary: configured && !stop_all && !forbidden, membership })
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
        assert!(!wants_primary(&[("orphaned=\"false\"", "orphaned=\"true\"")]));
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
