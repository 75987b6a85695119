//! Why the answer is no, as the operator reads it in `status`, in the log and in `crm_mon`.

use kemari_core::Generation;

use super::Record;

/// A no that is certain. What it rests on may change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the cluster has no record of this guest; if it never ran, run `kemari-replicator create` on one node, else \
         `kemari-replicator promote --cold-boot` on the node that is to boot it"
    )]
    NoRecord,
    #[error("the record is `{record}`, and this node knows generation {known}: another history is current")]
    OtherHistory { record: Record, known: Generation },
    #[error("the record is `{record}`, which does not name {node}: it lacks what has happened since it was in sync")]
    NotNamed { record: Record, node: String },
    #[error("the record is `{record}`, in which {node} is not the primary")]
    NotPrimary { node: String, record: Record },
    #[error("the record is `{record}`, and generation {wanted} is not newer")]
    NotNewer { wanted: Generation, record: Record },
    #[error("the record still names {named}, so {peer} cannot take its place yet")]
    OtherStandby { named: String, peer: String },
    #[error("unprotected=never: the guest waits for a standby")]
    Never,
    #[error("peer {0} is unclean: waiting until it is fenced")]
    Unclean(String),
    #[error(
        "peer {0} is gone and was not fenced, so it may run the guest, or be about to; once it is certainly off, \
         `stonith_admin --confirm {0}` says so if fencing is enabled, else `kemari-replicator run-unprotected`"
    )]
    Lost(String),
    // Pacemaker shows 128 characters of a failed action's reason.
    #[error("peer {0} is gone, was not fenced, and may still write to the shared disk; configure fencing")]
    SharedDisk(String),
    #[error(
        "waiting for {0}: it is not in the cluster, was not fenced, and may run the guest; once it is certainly off, \
         `kemari-replicator promote --cold-boot` boots the guest here"
    )]
    LostAtBoot(String),
    #[error(
        "waiting for {0}, which holds the guest as it was and can resume it; if it is not to, \
         `kemari-replicator promote --cold-boot` boots the guest here"
    )]
    OtherResumes(String),
    #[error("waiting for {0}, which the record names first")]
    FirstGoesFirst(String),
    #[error("peer {0} has not confirmed that it is outdated")]
    NoAnswer(String),
    #[error("the record was changed meanwhile: it is now `{0}`")]
    Overtaken(String),
}
