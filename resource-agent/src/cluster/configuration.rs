//! What the operator wants of a resource: whether any node is to run its primary.

use super::{ClusterError, cib, parse};

const QUERY: &str = "cibadmin --query --scope configuration";

/// What the configuration wants of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intention {
    /// A primary somewhere.
    Promoted,
    /// No primary anywhere.
    NotPromoted,
}

impl Intention {
    /// Asks the cluster about `resource`.
    pub(crate) fn read(resource: &str) -> Result<Intention, ClusterError> {
        Intention::parse(&cib::configuration()?, resource)
    }

    fn parse(xml: &str, resource: &str) -> Result<Intention, ClusterError> {
        let document = parse(QUERY, xml)?;
        let stop_all = document
            .descendants()
            .filter(|element| element.has_tag_name("crm_config"))
            .any(|section| has(section, "stop-all-resources", is_true));
        // The role may be set on the primitive, or on the clone or group around it: any of them stops it.
        let primitive = document
            .descendants()
            .find(|element| element.has_tag_name("primitive") && element.attribute("id") == Some(resource));
        let stopped = primitive.is_some_and(|primitive| {
            primitive.ancestors().take_while(|element| !element.has_tag_name("resources")).any(|element| {
                let own = element.children().filter(|child| child.has_tag_name("meta_attributes"));
                own.into_iter().any(|set| has(set, "target-role", forbids_a_primary))
            })
        });
        Ok(if stop_all || stopped { Intention::NotPromoted } else { Intention::Promoted })
    }
}

fn has(within: roxmltree::Node<'_, '_>, name: &str, accepted: fn(&str) -> bool) -> bool {
    within
        .descendants()
        .filter(|element| element.has_tag_name("nvpair") && element.attribute("name") == Some(name))
        .any(|element| element.attribute("value").is_some_and(accepted))
}

fn is_true(value: &str) -> bool {
    ["true", "yes", "on", "y", "1"].contains(&value.to_ascii_lowercase().as_str())
}

fn forbids_a_primary(role: &str) -> bool {
    ["stopped", "unpromoted", "slave"].contains(&role.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intention(property: &str, on_clone: &str, on_primitive: &str) -> Intention {
        let meta = |id: &str, role: &str| match role {
            "" => String::new(),
            role => format!(
                r#"<meta_attributes id="{id}"><nvpair id="{id}-role" name="target-role" value="{role}"/></meta_attributes>"#
            ),
        };
        let xml = format!(
            r#"<configuration><crm_config><cluster_property_set id="o">
                 <nvpair id="s" name="stop-all-resources" value="{property}"/></cluster_property_set></crm_config>
               <resources>
                 <primitive id="other">{stopped}</primitive>
                 <clone id="web-clone">{}<primitive id="web">{}</primitive></clone>
               </resources></configuration>"#,
            meta("c", on_clone),
            meta("p", on_primitive),
            stopped = meta("x", "Stopped"),
        );
        Intention::parse(&xml, "web").expect("well-formed")
    }

    #[test]
    fn a_role_that_forbids_promotion_anywhere_around_the_resource_counts() {
        assert_eq!(intention("false", "", ""), Intention::Promoted);
        assert_eq!(intention("false", "Started", "Promoted"), Intention::Promoted);
        assert_eq!(intention("false", "Stopped", ""), Intention::NotPromoted);
        assert_eq!(intention("false", "", "Stopped"), Intention::NotPromoted);
        assert_eq!(intention("false", "Unpromoted", ""), Intention::NotPromoted);
        assert_eq!(intention("true", "", ""), Intention::NotPromoted);
    }
}
