//! Whether this node and a primary that has called can work together.

use kemari_core::Generation;

use super::{Stage, Standby};
use crate::Message;
use crate::message::{Offer, Refuse, Select, Versions, clip};
use crate::standby::Event;

impl Standby {
    pub(super) fn offered(&mut self, offer: Offer) {
        let refuse = |reason, generation| Message::Refuse(Refuse { reason: clip(reason), generation });
        let fit = match self.generation {
            Some(known) if known != offer.generation && !offer.generation.is_newer_than(known) => {
                let reason = format!(
                    "{} serves generation {}, but {} knows generation {known}",
                    offer.node, offer.generation, self.config.node
                );
                Err((reason, Some(known)))
            }
            _ => self.fit(&offer).map_err(|reason| (reason, None)),
        };
        let version = match fit {
            Ok(version) => version,
            Err((reason, generation)) => {
                self.part();
                self.link.close(refuse(reason.clone(), generation));
                self.events.extend([Event::Refused { reason }, Event::Close]);
                return;
            }
        };
        self.peer = Some(offer.node);
        self.unprotected |= offer.unprotected;
        if self.generation == Some(offer.generation) {
            self.select(offer.generation, version);
        } else {
            self.stage = Stage::Adopting { generation: offer.generation, version };
            self.events.push_back(Event::AdoptGeneration(offer.generation));
        }
    }

    /// The version in which this guest can be replicated between these two nodes; why it cannot, naming both.
    fn fit(&self, offer: &Offer) -> Result<u16, String> {
        let (ours, theirs) = (&self.config.node, &offer.node);
        let supported = Versions::SUPPORTED;
        let Some(version) = supported.common(offer.versions) else {
            return Err(format!(
                "{theirs} speaks protocol versions {}, {ours} speaks {supported}; run releases that share one",
                offer.versions
            ));
        };
        let differences = offer.identity.differences(theirs, &self.config.identity, ours);
        if !differences.is_empty() {
            return Err(format!("the guest differs: {}", differences.join("; ")));
        }
        if offer.pages != self.config.pages {
            return Err(format!("the guest has {} pages on {theirs}, {} on {ours}", offer.pages, self.config.pages));
        }
        self.config.check_peer(theirs, offer.heartbeat_ms)?;
        Ok(version)
    }

    pub(super) fn select(&mut self, generation: Generation, version: u16) {
        self.stage = Stage::Open(generation);
        self.link.send(Message::Select(Select {
            version,
            node: self.config.node.clone(),
            image: self.image,
            rehearsed: self.rehearsed,
            heartbeat_ms: self.config.heartbeat.as_millis() as u32,
        }));
    }
}
