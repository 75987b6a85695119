//! Known bugs that can be planted, so that the cluster test can show that it would catch them: see `kemari_core::sabotage`.

/// The bugs that can be planted, each a way for two guests to speak, or for one to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The record is replaced, whatever it says by now.
    SwapWithoutCompare,
    /// A primary goes on alone, and the record still names its standby.
    ConsentWithoutSwap,
    /// A primary goes on alone without its standby's word that it is outdated.
    ConsentUnasked,
    /// A standby is promoted, and the record still names the primary before it.
    PromoteWithoutSwap,
    /// A node boots the guest that the record does not name.
    BootUnnamed,
    /// A node that is gone is taken for one that was fenced.
    LostIsFenced,
    /// Demote says that it is done, and the guest runs on.
    DemoteDoesNothing,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 7] = [
        Bug::SwapWithoutCompare,
        Bug::ConsentWithoutSwap,
        Bug::ConsentUnasked,
        Bug::PromoteWithoutSwap,
        Bug::BootUnnamed,
        Bug::LostIsFenced,
        Bug::DemoteDoesNothing,
    ];

    /// Its name in `KEMARI_SABOTAGE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Bug::SwapWithoutCompare => "swap-without-compare",
            Bug::ConsentWithoutSwap => "consent-without-swap",
            Bug::ConsentUnasked => "consent-unasked",
            Bug::PromoteWithoutSwap => "promote-without-swap",
            Bug::BootUnnamed => "boot-unnamed",
            Bug::LostIsFenced => "lost-is-fenced",
            Bug::DemoteDoesNothing => "demote-does-nothing",
        }
    }
}

/// Whether this bug is planted in this process: never, in a build without the feature `sabotage`.
#[inline(always)]
pub(crate) fn planted(bug: Bug) -> bool {
    kemari_core::sabotage::is_planted(bug.name())
}
