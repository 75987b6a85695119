//! What the primary sends once the two have met.

use kemari_core::sabotage::{self, Bug};
use kemari_core::{Generation, PageRun};

use super::Standby;
use crate::message::Manifest;
use crate::standby::Event;
use crate::standby::staged::{Staged, check_range};
use crate::violation::Violation;
use crate::{Chunk, Message};

impl Standby {
    pub(super) fn replicate(&mut self, generation: Generation, message: Message) -> Result<(), Violation> {
        match (message, &mut self.staged) {
            (Message::SyncBegin, None) => {
                (self.image, self.rehearsed, self.resyncing) = (None, false, true);
                self.state = Vec::new();
                self.events.push_back(Event::Void);
            }
            (Message::SyncPages(chunk), None) if self.resyncing => {
                for run in chunk.runs() {
                    check_range(*run, self.config.pages)?;
                }
                self.pages_received += chunk.pages();
                self.events.push_back(Event::Write(chunk));
            }
            (Message::Manifest(manifest), None) => self.announced(generation, manifest)?,
            (Message::Pages(chunk), Some(staged)) => {
                if sabotage::planted(Bug::PromotePartial) {
                    self.events.push_back(Event::Write(chunk.clone()));
                }
                self.pages_received += chunk.pages();
                staged.pages(chunk, self.config.pages)?;
            }
            (Message::State(piece), Some(staged)) => staged.state(piece)?,
            (Message::PageLost { page }, None) if self.image.is_some() => {
                check_range(PageRun { first: page, count: 1 }, self.config.pages)?;
                self.events.push_back(Event::PageWanted { page });
            }
            (Message::Yield { image, promote }, None) => self.yield_received(image, promote)?,
            (other, _) => {
                return Err(Violation::Unexpected { message: other.name(), doing: self.stage.doing() });
            }
        }
        if self.staged.as_ref().is_some_and(Staged::is_whole)
            && let Some(staged) = self.staged.take()
        {
            self.commit(staged)?;
        }
        Ok(())
    }

    /// The answer to [`Event::PageWanted`].
    pub fn give_page(&mut self, chunk: Chunk) {
        if self.link.is_up() {
            self.link.send(Message::PageBack(chunk));
        }
    }

    fn announced(&mut self, generation: Generation, manifest: Manifest) -> Result<(), Violation> {
        let Manifest { image, onto, .. } = manifest;
        if image.generation != generation {
            return Err(Violation::Generation { image, generation });
        }
        if onto != self.image || (onto.is_none() && !self.resyncing) {
            return Err(Violation::Base { image, onto, held: self.image });
        }
        if let Some(onto) = onto.filter(|onto| onto.generation == generation && onto.epoch >= image.epoch) {
            return Err(Violation::Order { image, onto });
        }
        if sabotage::planted(Bug::AckBeforeVerify) {
            self.link.send(Message::Ack(image));
        }
        self.staged = Some(Staged::new(manifest, self.config.pages)?);
        Ok(())
    }

    /// A checkpoint is whole: verified, it is the image from here on. The driver lays its pages into memory before it sends
    /// the acknowledgement.
    fn commit(&mut self, staged: Staged) -> Result<(), Violation> {
        staged.verify()?;
        let Staged { manifest, chunks, state, .. } = staged;
        let image = manifest.image;
        self.image = Some(image);
        self.state = state;
        self.unprotected = manifest.unprotected;
        self.resyncing = false;
        self.checkpoints += 1;
        self.events.push_back(Event::Commit { image, chunks });
        if !sabotage::planted(Bug::AckBeforeVerify) {
            self.link.send(Message::Ack(image));
        }
        if !self.rehearsed {
            self.events.push_back(Event::Rehearse);
        }
        Ok(())
    }
}
