//! The gate: output commit (Elnozahy et al., CMU-CS-99-148) as an API.
//!
//! What leaves the guest is [held](Gate::hold) under the epoch in progress. It comes out again only as a [`Released`], which
//! only the gate can make, and only when shown a [`Committed`] for that epoch or a standing [`Consent`]. The places where
//! output really leaves (tap, disk, console) take nothing but a [`Released`], so letting something out early does not compile.
//!
//! The proofs are evidence, not flags: a [`Committed`] is the match of what was [`Sealed`] here with what the standby
//! [acknowledged](Acknowledgement), and cannot be had otherwise.

use std::collections::VecDeque;

use crate::sabotage::{self, Bug};
use crate::{Epoch, Generation, Image};

/// What a held thing costs while it is held.
pub trait Weigh {
    /// Bytes of memory it keeps, for the gate's limit.
    fn weight_bytes(&self) -> usize;
}

/// A checkpoint that was cut and sent, and is not yet acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a sealed epoch that is not sent never commits"]
pub struct Sealed {
    image: Image,
}

impl Sealed {
    /// The checkpoint that ended `epoch`, with the checksum of its content.
    pub fn new(generation: Generation, epoch: Epoch, checksum: u32) -> Sealed {
        Sealed { image: Image { generation, epoch, checksum } }
    }

    /// The image that the standby will hold once it has it.
    #[must_use]
    pub fn image(&self) -> Image {
        self.image
    }

    /// The proof that this checkpoint is committed, if that is what the standby said.
    ///
    /// # Errors
    /// Gives `self` back if the acknowledgement is for anything else.
    pub fn acknowledged_by(self, acknowledgement: &Acknowledgement) -> Result<Committed, Sealed> {
        if acknowledgement.0 == self.image { Ok(Committed { image: self.image }) } else { Err(self) }
    }
}

/// The standby's word that it holds a checkpoint whole and verified, as it came off the authenticated link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement(pub Image);

/// Proof that the checkpoint that ended an epoch is held, whole and verified, by a standby.
///
/// Only [`Sealed::acknowledged_by`] makes one.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "held output waits for this"]
pub struct Committed {
    image: Image,
}

impl Committed {
    /// The committed image.
    #[must_use]
    pub fn image(&self) -> Image {
        self.image
    }
}

/// Why a primary may run unprotected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsentReason {
    /// The operator said so, by command, knowing what it means.
    Operator,
    /// The generation was granted to this node alone: no other node holds an image of it that could be promoted.
    NamedAlone,
}

/// The durable word that the peer cannot be promoted, so that the primary may run unprotected.
///
/// The authority (see the daemon) is the only place that makes one, after it has made it durable.
#[derive(Debug)]
#[must_use = "consent opens the gate only when it is handed to it"]
pub struct Consent {
    generation: Generation,
    reason: ConsentReason,
}

impl Consent {
    /// Consent for the primary of `generation`. To be called by the authority only, once its record is on stable storage.
    pub fn recorded(generation: Generation, reason: ConsentReason) -> Consent {
        Consent { generation, reason }
    }

    /// Why it was given.
    #[must_use]
    pub fn reason(&self) -> ConsentReason {
        self.reason
    }
}

/// Output that may leave. Only the [`Gate`] makes one.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "released output that is dropped is lost to the world"]
pub struct Released<T>(T);

impl<T> Released<T> {
    /// What it is, for finding the place that sends it.
    #[must_use]
    pub fn get(&self) -> &T {
        &self.0
    }

    /// The output itself, for the place that sends it.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Why the gate refused a proof.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GateError {
    /// A proof from another history.
    #[error("proof for generation {proof}, but this gate belongs to generation {gate}")]
    OtherGeneration {
        /// Of the proof.
        proof: Generation,
        /// Of the gate.
        gate: Generation,
    },
    /// A commit of an epoch that has not ended here.
    #[error("epoch {proof} cannot be committed: the epoch in progress is {current}")]
    Unsealed {
        /// Of the proof.
        proof: Epoch,
        /// In progress.
        current: Epoch,
    },
}

/// Holds output until it may leave. Order is kept within and across epochs.
#[derive(Debug)]
pub struct Gate<T> {
    generation: Generation,
    epoch: Epoch,
    held: VecDeque<(Epoch, T)>,
    held_bytes: usize,
    limit_bytes: usize,
    consent: Option<Consent>,
    released: VecDeque<T>,
}

impl<T: Weigh> Gate<T> {
    /// A gate for a primary of `generation` whose epoch in progress is `epoch`. It is closed.
    ///
    /// `limit_bytes` is the weight of held output from which on [`is_full`](Gate::is_full) asks for the guest to be slowed.
    #[must_use]
    pub fn new(generation: Generation, epoch: Epoch, limit_bytes: usize) -> Gate<T> {
        Gate {
            generation,
            epoch,
            held: VecDeque::new(),
            held_bytes: 0,
            limit_bytes,
            consent: None,
            released: VecDeque::new(),
        }
    }

    /// The epoch in progress.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes output of the epoch in progress.
    pub fn hold(&mut self, output: T) {
        if self.consent.is_some() || sabotage::planted(Bug::ReleaseAtHold) {
            self.released.push_back(output);
        } else {
            self.held_bytes += output.weight_bytes();
            self.held.push_back((self.epoch, output));
        }
    }

    /// Ends the epoch in progress and returns its number; output held from now on belongs to the next.
    pub fn seal(&mut self) -> Epoch {
        let ended = self.epoch;
        self.epoch = ended.next();
        ended
    }

    /// Releases everything held up to the end of the committed epoch.
    ///
    /// # Errors
    /// A proof of another generation, or of an epoch that has not ended, releases nothing.
    pub fn commit(&mut self, proof: &Committed) -> Result<(), GateError> {
        let Image { generation, epoch, .. } = proof.image;
        if generation != self.generation {
            return Err(GateError::OtherGeneration { proof: generation, gate: self.generation });
        }
        if epoch >= self.epoch {
            return Err(GateError::Unsealed { proof: epoch, current: self.epoch });
        }
        while self.held.front().is_some_and(|(held, _)| *held <= epoch) {
            self.release_front();
        }
        Ok(())
    }

    /// Releases everything held and holds nothing more, until [`close`](Gate::close).
    ///
    /// # Errors
    /// Consent given to another generation opens nothing.
    pub fn open(&mut self, consent: Consent) -> Result<(), GateError> {
        if consent.generation != self.generation {
            return Err(GateError::OtherGeneration { proof: consent.generation, gate: self.generation });
        }
        while !self.held.is_empty() {
            self.release_front();
        }
        self.consent = Some(consent);
        Ok(())
    }

    /// Withdraws consent: output is held from now on.
    pub fn close(&mut self) {
        self.consent = None;
    }

    /// The consent in force.
    #[must_use]
    pub fn consent(&self) -> Option<&Consent> {
        self.consent.as_ref()
    }

    /// The next output that may leave, in the order it was held.
    pub fn next_released(&mut self) -> Option<Released<T>> {
        self.released.pop_front().map(Released)
    }

    /// Whether anything is held.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether output of the epoch in progress is held, so that a checkpoint would help it on its way.
    #[must_use]
    pub fn awaits_checkpoint(&self) -> bool {
        self.held.back().is_some_and(|(epoch, _)| *epoch == self.epoch)
    }

    /// Whether held output has reached its limit: the guest must be slowed until something is released.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held_bytes >= self.limit_bytes
    }

    /// Weight of everything held, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Everything held, oldest first, with the epoch it belongs to.
    pub fn held(&self) -> impl ExactSizeIterator<Item = (Epoch, &T)> {
        self.held.iter().map(|(epoch, output)| (*epoch, output))
    }

    fn release_front(&mut self) {
        if let Some((_, output)) = self.held.pop_front() {
            self.held_bytes -= output.weight_bytes();
            self.released.push_back(output);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: Generation = Generation { number: 3, id: 7 };

    impl Weigh for u32 {
        fn weight_bytes(&self) -> usize {
            4
        }
    }

    fn committed(generation: Generation, epoch: Epoch) -> Committed {
        let sealed = Sealed::new(generation, epoch, 9);
        sealed.acknowledged_by(&Acknowledgement(sealed.image())).expect("the same image")
    }

    fn drain(gate: &mut Gate<u32>) -> Vec<u32> {
        std::iter::from_fn(|| gate.next_released().map(Released::into_inner)).collect()
    }

    #[test]
    fn output_waits_for_its_own_epoch() {
        let mut gate = Gate::new(G, Epoch::FIRST, 100);
        gate.hold(1);
        let first = gate.seal();
        gate.hold(2);
        assert_eq!(drain(&mut gate), [] as [u32; 0]);
        gate.commit(&committed(G, first)).expect("sealed");
        assert_eq!(drain(&mut gate), [1]);
        assert!(gate.awaits_checkpoint());
        let second = gate.seal();
        assert!(!gate.awaits_checkpoint() && gate.is_holding());
        gate.commit(&committed(G, second)).expect("sealed");
        assert_eq!(drain(&mut gate), [2]);
        assert_eq!(gate.held_bytes(), 0);
    }

    #[test]
    fn an_acknowledgement_of_anything_else_is_no_proof() {
        let sealed = Sealed::new(G, Epoch::FIRST, 9);
        let image = sealed.image();
        for other in [
            Image { checksum: 8, ..image },
            Image { epoch: Epoch::FIRST.next(), ..image },
            Image { generation: Generation { id: 8, ..G }, ..image },
        ] {
            assert_eq!(sealed.acknowledged_by(&Acknowledgement(other)), Err(sealed));
        }
    }

    #[test]
    fn proofs_of_other_histories_and_of_the_future_release_nothing() {
        let mut gate = Gate::new(G, Epoch::FIRST, 100);
        gate.hold(1);
        assert!(matches!(gate.commit(&committed(G, Epoch::FIRST)), Err(GateError::Unsealed { .. })));
        let epoch = gate.seal();
        let other = Generation { id: 8, ..G };
        assert!(matches!(gate.commit(&committed(other, epoch)), Err(GateError::OtherGeneration { .. })));
        let consent = Consent::recorded(other, ConsentReason::Operator);
        assert!(matches!(gate.open(consent), Err(GateError::OtherGeneration { .. })));
        assert_eq!(drain(&mut gate), [] as [u32; 0]);
    }

    #[test]
    fn consent_opens_and_closing_holds_again_in_order() {
        let mut gate = Gate::new(G, Epoch::FIRST, 8);
        gate.hold(1);
        gate.hold(2);
        assert!(gate.is_full());
        gate.open(Consent::recorded(G, ConsentReason::Operator)).expect("same generation");
        gate.hold(3);
        gate.close();
        gate.hold(4);
        assert_eq!(drain(&mut gate), [1, 2, 3]);
        assert!(gate.is_holding() && !gate.is_full());
    }
}
