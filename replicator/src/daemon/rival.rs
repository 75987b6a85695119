//! Another node that believes that it is primary, too.

use kemari_core::Generation;
use kemari_protocol::{Message, refuse_as_primary};

use super::host::Host;
use super::primary::Primary;
use crate::link::Link;

impl Primary {
    /// Takes the link of a node that must believe that it is primary, too. The newest one counts.
    pub(super) fn meet_rival(&mut self, link: Link) {
        self.rival = Some(link);
    }

    /// Answers a rival's offer. Returns its generation if that is newer than ours.
    pub(super) fn answer_rival(&mut self, host: &mut Host) -> Option<Generation> {
        let rival = self.rival.as_mut()?;
        let message = match rival.receive() {
            Ok(message) => message,
            Err(error) => {
                log::warn!("{}: {error}", rival.peer());
                self.rival = None;
                return None;
            }
        };
        match message {
            Some(Message::Offer(offer)) => {
                let rivalry = refuse_as_primary(&host.config.node.name, self.generation, &offer);
                log::warn!(
                    "{} offers itself as primary of generation {}, and is refused",
                    offer.node,
                    offer.generation
                );
                rival.send(rivalry.answer);
                rival.close_when_sent();
                rival.flush();
                rivalry.superseded_by
            }
            _ => {
                if rival.closed().is_some() {
                    self.rival = None;
                }
                None
            }
        }
    }
}
