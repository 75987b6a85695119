use super::*;

/// Printed by Pacemaker 2.1.5.
const TWO_ONLINE: &str = r#"<pacemaker-result api-version="2.25" request="crm_mon -1 --output-as=xml">
  <pacemakerd sys_from="pacemakerd" state="running" last_updated="2026-11-23 19:08:19Z"/>
  <summary>
    <stack type="corosync"/>
    <nodes_configured number="2"/>
    <cluster_options stonith-enabled="false" symmetric-cluster="true" no-quorum-policy="stop" maintenance-mode="false" stop-all-resources="false" stonith-timeout-ms="60000" priority-fencing-delay-ms="0"/>
  </summary>
  <nodes>
    <node name="alpha" id="1" online="true" standby="false" standby_onfail="false" maintenance="false" pending="false" unclean="false" health="green" feature_set="3.16.1" shutdown="false" expected_up="true" is_dc="true" resources_running="0" type="member"/>
    <node name="beta" id="2" online="true" standby="true" standby_onfail="false" maintenance="false" pending="false" unclean="false" health="green" feature_set="3.16.1" shutdown="false" expected_up="true" is_dc="false" resources_running="0" type="member"/>
  </nodes>
  <status code="0" message="OK"/>
</pacemaker-result>"#;

const HISTORY_XML: &str = r#"<pacemaker-result api-version="2.25" request="stonith_admin --history beta --output-as=xml">
  <list name="fencing history" count="2">
    <fence_event action="reboot" target="beta" client="stonith_admin" origin="alpha" status="failed" completed="2026-11-23 19:40:00Z"/>
    <fence_event action="reboot" target="beta" client="pacemaker-controld.7" origin="alpha" status="success" completed="2026-11-23 19:41:00Z"/>
  </list>
  <status code="0" message="OK"/>
</pacemaker-result>"#;

fn node(online: bool, unclean: bool, pending: bool) -> Node {
    let (standby, maintenance, shutdown) = (false, false, false);
    Node { name: "beta".to_owned(), online, unclean, pending, standby, maintenance, shutdown }
}

fn read(xml: &str) -> Result<Membership, ClusterError> {
    Membership::of(&parse(CRM_MON, xml)?)
}

#[test]
fn nodes_and_fencing_are_read() {
    let membership = read(TWO_ONLINE).expect("as printed");
    assert!(!membership.fencing);
    assert!(membership.node("alpha").is_some_and(Node::may_run_primary));
    assert!(membership.node("beta").is_some_and(|beta| beta.online && beta.standby && !beta.may_run_primary()));
    assert_eq!(membership.standing_of("beta").expect("nothing to ask"), Standing::Member);
    assert_eq!(membership.standing_of("gamma").expect("nothing to ask"), Standing::Stranger);
}

#[test]
fn half_an_answer_is_none() {
    for part in ["online=\"true\" ", "stonith-enabled=\"false\" ", "unclean=\"false\" "] {
        let xml = TWO_ONLINE.replace(part, "");
        assert!(read(&xml).is_err(), "without {part}");
    }
    assert!(read("").is_err());
    assert!(read("<pacemaker-result/>").is_err());
}

#[test]
fn every_state_of_a_node_has_one_standing() {
    for bits in 0..32_u8 {
        let [online, unclean, pending, fenced, left] = [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
        let expected = if unclean {
            Standing::Unclean
        } else if online && !pending {
            Standing::Member
        } else if fenced {
            Standing::Fenced
        } else if left && !online {
            Standing::Left
        } else {
            Standing::Lost
        };
        assert_eq!(standing(Some(&node(online, unclean, pending)), fenced, left), expected, "{bits:05b}");
    }
    assert_eq!(standing(None, true, true), Standing::Stranger);
}

#[test]
fn only_a_success_of_taking_that_node_down_counts() {
    assert!(was_fenced(HISTORY_XML, "beta").expect("as printed"));
    assert!(!was_fenced(HISTORY_XML, "alpha").expect("as printed"));
    for (from, to) in [("\"success\"", "\"pending\""), ("\"reboot\"", "\"on\"")] {
        assert!(!was_fenced(&HISTORY_XML.replace(from, to), "beta").expect("as printed"));
    }
}

#[test]
fn leaving_is_told_from_vanishing() {
    let state = |crmd: &str, join: &str, expected: &str| {
        left_cleanly(&format!(
            r#"<node_state id="2" uname="beta" in_ccm="true" crmd="{crmd}" join="{join}" expected="{expected}"/>"#
        ))
        .expect("well-formed")
    };
    assert!(state("offline", "down", "down"));
    assert!(!state("offline", "down", "member"));
    assert!(!state("online", "member", "down"));
    assert!(!state("online", "member", "member"));
    assert!(!left_cleanly("<xpath-query/>").expect("well-formed"));
}
