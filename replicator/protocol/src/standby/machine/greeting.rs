//! Whether this node and a primary that has called can work together.

use kemari_core::Generation;

use super::{Stage, Standby};
use crate::Message;
use crate::message::{Offer, Refuse, Select, Versions, clip};
use crate::standby::Event;

impl Standby {
    pub(super) fn offered(&mut self, offer: Offer) {
        let refuse = |reason, generation| Message::Refuse(Refuse { reason: clip(reason), generation });
        let refusal = match self.generation {
            Some(known) if known != offer.generation && !offer.generation.is_newer_than(known) => {
                let reason = format!(
                    "{} serves generation {}, but {} knows generation {known}",
                    offer.node, offer.generation, self.config.node
                );
                Some((reason, Some(known)))
            }
            _ => self.misfit(&offer).map(|reason| (reason, None)),
        };
        if let Some((reason, generation)) = refusal {
            self.part();
            self.link.close(refuse(reason.clone(), generation));
            self.events.extend([Event::Refused { reason }, Event::Close]);
            return;
        }
        self.peer = Some(offer.node);
        self.unprotected |= offer.unprotected;
        if self.generation == Some(offer.generation) {
            self.select(offer.generation);
        } else {
            self.stage = Stage::Adopting(offer.generation);
            self.events.push_back(Event::AdoptGeneration(offer.generation));
        }
    }

    /// Why this guest cannot be replicated between these two nodes, naming both.
    fn misfit(&self, offer: &Offer) -> Option<String> {
        let (ours, theirs) = (&self.config.node, &offer.node);
        let supported = Versions::SUPPORTED;
        if supported.common(offer.versions).is_none() {
            return Some(format!(
                "{theirs} speaks protocol versions {}, {ours} speaks {supported}; run releases that share one",
                offer.versions
            ));
        }
        let differences = offer.identity.differences(theirs, &self.config.identity, ours);
        if !differences.is_empty() {
            return Some(format!("the guest differs: {}", differences.join("; ")));
        }
        if offer.pages != self.config.pages {
            return Some(format!("the guest has {} pages on {theirs}, {} on {ours}", offer.pages, self.config.pages));
        }
        self.config.check_peer(theirs, offer.heartbeat_ms).err()
    }

    pub(super) fn select(&mut self, generation: Generation) {
        self.stage = Stage::Open(generation);
        self.link.send(Message::Select(Select {
            version: Versions::SUPPORTED.newest,
            node: self.config.node.clone(),
            image: self.image,
            rehearsed: self.rehearsed,
            heartbeat_ms: self.config.heartbeat.as_millis() as u32,
            peer_timeout_ms: self.config.peer_timeout.as_millis() as u32,
        }));
    }
}
