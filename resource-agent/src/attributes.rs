//! The names of a guest's node attributes, as `crm_mon -A` shows them.

/// Asks the node to mark itself outdated in the generation that is the value.
pub(crate) fn outdate(guest: &str) -> String {
    format!("kemari-{guest}-outdate")
}

/// The generation in which the node has marked itself outdated, durably.
pub(crate) fn outdated(guest: &str) -> String {
    format!("kemari-{guest}-outdated")
}

/// The generation of the image that the node could resume.
pub(crate) fn holds(guest: &str) -> String {
    format!("kemari-{guest}-holds")
}

/// One of those that operators look at: `role`, `state`, `generation`, `epoch`, `commit-age`.
pub(crate) fn shown(guest: &str, name: &str) -> String {
    format!("kemari-{guest}-{name}")
}
