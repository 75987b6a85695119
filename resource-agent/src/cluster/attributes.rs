//! A guest's node attributes, straight to and from attrd, without dampening.

use super::{COMMAND_LIMIT, ClusterError, answer_of, failed, parse, run};

/// CRM_EX_CONFIG, which attrd_updater exits with if it never heard of the attribute.
const NO_SUCH_ATTRIBUTE: i32 = 78;
/// CRM_EX_NOSUCH: no value for that node.
const NO_SUCH_VALUE: i32 = 105;

/// The attributes of one node.
#[derive(Clone, Debug)]
pub(crate) struct Attributes {
    node: String,
}

impl Attributes {
    pub(crate) fn of(node: &str) -> Attributes {
        Attributes { node: node.to_owned() }
    }

    /// Its value; none if it has none, or an empty one, which is how attrd deletes.
    pub(crate) fn get(&self, name: &str) -> Result<Option<String>, ClusterError> {
        let arguments = ["--query", "--name", name, "--node", &self.node, "--output-as=xml"];
        let outcome = run("attrd_updater", &arguments, COMMAND_LIMIT)?;
        match outcome.code {
            Some(0) => value(&outcome.stdout, &self.node),
            Some(NO_SUCH_ATTRIBUTE | NO_SUCH_VALUE) => Ok(None),
            _ => Err(failed("attrd_updater --query", &outcome)),
        }
    }

    pub(crate) fn set(&self, name: &str, value: &str) -> Result<(), ClusterError> {
        // In one word: a value may begin with a dash, as -INFINITY does.
        let update = format!("--update={value}");
        let arguments = ["--name", name, "--node", &self.node, &update, "--delay", "0"];
        answer_of("attrd_updater", &arguments).map(drop)
    }

    pub(crate) fn delete(&self, name: &str) -> Result<(), ClusterError> {
        answer_of("attrd_updater", &["--name", name, "--node", &self.node, "--delete"]).map(drop)
    }
}

fn value(xml: &str, node: &str) -> Result<Option<String>, ClusterError> {
    let document = parse("attrd_updater --query", xml)?;
    Ok(document
        .descendants()
        .find(|element| element.has_tag_name("attribute") && element.attribute("host") == Some(node))
        .and_then(|element| element.attribute("value"))
        .filter(|value| !value.is_empty())
        .map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_that_node_s_value_counts() {
        let xml = r#"<pacemaker-result api-version="2.25" request="attrd_updater -Q">
  <attribute name="kemari-web-outdated" value="7-00ff" host="beta"/>
  <attribute name="kemari-web-outdated" value="" host="alpha"/>
  <status code="0" message="OK"/>
</pacemaker-result>"#;
        assert_eq!(value(xml, "beta").expect("as printed").as_deref(), Some("7-00ff"));
        assert_eq!(value(xml, "alpha").expect("as printed"), None);
        assert_eq!(value(xml, "gamma").expect("as printed"), None);
    }
}
