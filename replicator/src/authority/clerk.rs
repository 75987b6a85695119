//! The one who asks: first the handler, if there is one, then this node's own record.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kemari_core::{ConsentReason, Generation};

use super::{Answer, AuthorityError, Grant, Handler, Memory, Question, random_id};

/// How often a question about a promotion is repeated while nobody knows what became of it.
const TRIES: u32 = 3;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Clerk {
    memory: Arc<Mutex<Memory>>,
    handler: Option<Handler>,
    /// A generation that was asked for, with nobody knowing whether it was granted, and the one it follows. If it was, only
    /// it can be had.
    open: Option<(Generation, Generation)>,
}

impl Clerk {
    pub(super) fn new(memory: Arc<Mutex<Memory>>, handler: Option<Handler>) -> Clerk {
        Clerk { memory, handler, open: None }
    }

    /// Answers questions for as long as there is somebody to ask them.
    pub(super) fn serve(mut self, questions: &Receiver<Question>, answers: &Sender<Answer>, wake: impl Fn()) {
        for question in questions {
            if answers.send(self.answer(question)).is_err() {
                return;
            }
            wake();
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        super::lock(&self.memory)
    }

    /// Answers one.
    pub(super) fn answer(&mut self, question: Question) -> Answer {
        self.try_answer(&question).unwrap_or_else(|error| Answer::Refused { question, error })
    }

    fn try_answer(&mut self, question: &Question) -> Result<Answer, AuthorityError> {
        match question {
            Question::Promote { from, .. } => self.grant(question, *from, false).map(Answer::Granted),
            Question::Boot { insist } => {
                let (from, first) = self.memory().bootable()?;
                if self.handler.is_none() && !first && !insist {
                    return Err(AuthorityError::NothingToResume(
                        "this node holds no image in sync to resume. Promote the node that does; if neither has one, boot \
                         the guest from its disk with `promote --cold-boot`",
                    ));
                }
                self.grant(question, from, first).map(Answer::Granted)
            }
            Question::Alone { generation, epoch, peer, parting, insist } => {
                if let Some(handler) = &self.handler {
                    handler.alone(*generation, *epoch, peer.as_deref(), *parting, *insist)?;
                }
                let reason = if *insist { ConsentReason::Operator } else { ConsentReason::NamedAlone };
                self.memory().consent(*generation, reason).map(Answer::Consented)
            }
            Question::Protect { generation, peer } => {
                if let Some(handler) = &self.handler {
                    handler.protect(*generation, peer)?;
                }
                self.memory().protect(*generation).map(|()| Answer::Protected)
            }
        }
    }

    fn grant(&mut self, question: &Question, from: Generation, first: bool) -> Result<Grant, AuthorityError> {
        let to = match self.open {
            Some((followed, to)) if followed == from => to,
            _ => from.next(random_id()?),
        };
        if !to.is_newer_than(from) {
            return Err(AuthorityError::Denied(format!(
                "no generation follows {from}: its number is the last there is"
            )));
        }
        let granted = match &self.handler {
            Some(handler) => {
                self.open = Some((from, to));
                persist(|| handler.grant(question, from, to, first))
            }
            None => Ok(to),
        };
        if matches!(&granted, Err(error) if !matches!(error, AuthorityError::Unknown(_))) {
            self.open = None;
        }
        // Until it is on this node's disk it is open: the record names it already, and no other can be had.
        let grant = self.memory().grant(from, granted?)?;
        self.open = None;
        Ok(grant)
    }
}

/// Asks again while nobody knows.
fn persist(ask: impl Fn() -> Result<Generation, AuthorityError>) -> Result<Generation, AuthorityError> {
    for _ in 1..TRIES {
        match ask() {
            Err(AuthorityError::Unknown(reason)) => log::warn!("asked again: {reason}"),
            known => return known,
        }
        std::thread::sleep(PAUSE);
    }
    ask()
}
