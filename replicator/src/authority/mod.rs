//! Who may speak: the authority that grants generations and consent.
//!
//! It is the operator, through explicit commands, or a *handler*: a program that asks the cluster. Either way this node
//! remembers the answer in one small record, on stable storage before anything that it allows is done.
//!
//! Asking takes as long as a disk or a cluster takes, so the event loop does not wait for it: a thread of its own
//! [asks](Authority::ask) and the [answer](Authority::answer) comes later, when the situation may have changed. An answer is
//! the truth about the record even then. Only what the operator grants is written down at once: no guest runs here then, and
//! the one that is to run waits for nothing else.
//!
//! The two things it hands out are types: a [`Grant`] is needed to become primary, a [`Consent`] to run unprotected.

mod clerk;
mod error;
mod handler;
mod memory;
mod record;

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use kemari_control::Standing;
use kemari_core::{Consent, ConsentReason, Epoch, Generation};

use self::clerk::Clerk;
pub use self::error::AuthorityError;
pub use self::handler::Handler;
use self::memory::Known;
pub use self::memory::Memory;

/// The authority's word that this node is the primary of a generation, already on stable storage.
///
/// It includes consent: a new generation names its first primary alone, so no other node can be promoted in it until a
/// standby has caught up.
#[derive(Debug)]
#[must_use = "a generation that was granted and is not used leaves the guest without a primary"]
pub struct Grant {
    generation: Generation,
}

impl Grant {
    /// The generation granted.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The consent it includes.
    pub fn into_consent(self) -> Consent {
        Consent::recorded(self.generation, ConsentReason::NamedAlone)
    }
}

/// What the authority can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// May this node, frozen with the newest image of `from`, resume the guest?
    Promote {
        /// The generation of the image.
        from: Generation,
        /// The primary, if its name is known.
        peer: Option<String>,
        /// Whether the primary has said that it is demoted.
        handed_over: bool,
    },
    /// May this node, which holds nothing, boot the guest from its disk?
    Boot {
        /// By the operator's explicit command.
        insist: bool,
    },
    /// May the primary of this generation go on alone?
    Alone {
        /// Its generation.
        generation: Generation,
        /// The epoch in progress, which no standby holds.
        epoch: Epoch,
        /// The standby that it has lost, if there ever was one.
        peer: Option<String>,
        /// How it was lost.
        parting: Parting,
        /// By the operator's explicit command.
        insist: bool,
    },
    /// The standby is in sync and gates the output: may it be promoted, too, from here on?
    Protect {
        /// The primary's generation.
        generation: Generation,
        /// The standby.
        peer: String,
    },
}

impl Question {
    /// Whether a [`Grant`] is what it is about.
    fn is_for_grant(&self) -> bool {
        matches!(self, Question::Promote { .. } | Question::Boot { .. })
    }
}

/// How a standby was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Without a word.
    Lost,
    /// It said goodbye.
    Left,
}

/// The authority's answer.
#[derive(Debug)]
#[must_use = "an answer is the truth about the record"]
pub enum Answer {
    /// To [`Question::Promote`] and [`Question::Boot`]: yes.
    Granted(Grant),
    /// To [`Question::Alone`]: yes.
    Consented(Consent),
    /// To [`Question::Protect`]: done.
    Protected,
    /// No, or not known.
    Refused {
        /// To what.
        question: Question,
        /// Why.
        error: AuthorityError,
    },
}

/// The node's door to its authority.
#[derive(Debug)]
pub struct Authority {
    memory: Arc<Mutex<Memory>>,
    /// The event loop looks at it often, while the thread may be holding the memory for as long as the disk takes.
    known: Known,
    questions: Sender<Question>,
    answers: Receiver<Answer>,
    /// Writes down what the operator grants; none if there is a handler to be asked.
    scribe: Option<Clerk>,
    granted: VecDeque<Answer>,
}

impl Authority {
    /// Starts the thread that asks. Without a handler the operator is the authority. `wake` is called for every answer.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(
        memory: Memory,
        handler: Option<Handler>,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Authority, AuthorityError> {
        let known = memory.known();
        let memory = Arc::new(Mutex::new(memory));
        let (questions, asked) = mpsc::channel();
        let (given, answers) = mpsc::channel();
        let scribe = handler.is_none().then(|| Clerk::new(Arc::clone(&memory), None));
        let clerk = Clerk::new(Arc::clone(&memory), handler);
        thread::Builder::new()
            .name("authority".to_owned())
            .spawn(move || clerk.serve(&asked, &given, wake))
            .map_err(AuthorityError::Thread)?;
        Ok(Authority { memory, known, questions, answers, scribe, granted: VecDeque::new() })
    }

    /// Whether it is asked for consent whenever a standby is lost. The operator is not asked; he says so by himself.
    #[must_use]
    pub fn has_handler(&self) -> bool {
        self.scribe.is_none()
    }

    /// Asks. Questions are answered one after the other.
    ///
    /// # Errors
    /// The thread is gone.
    pub fn ask(&mut self, question: Question) -> Result<(), AuthorityError> {
        if let Some(scribe) = self.scribe.as_mut().filter(|_| question.is_for_grant()) {
            self.granted.push_back(scribe.answer(question));
            return Ok(());
        }
        self.questions.send(question).map_err(|_| AuthorityError::Thread(std::io::Error::other("it has ended")))
    }

    /// The next answer, if there is one.
    pub fn answer(&mut self) -> Option<Answer> {
        self.granted.pop_front().or_else(|| self.answers.try_recv().ok())
    }

    /// The newest generation this node knows.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.known.generation()
    }

    /// What this node was when its record was last written.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        self.known.standing()
    }

    /// Makes `generation` the one this node follows.
    ///
    /// # Errors
    /// The record cannot be written; nothing may then be done in that generation.
    pub fn follow(&self, generation: Generation) -> Result<(), AuthorityError> {
        self.memory().follow(generation)
    }

    /// Marks what this node holds of `generation` as never to be resumed.
    ///
    /// # Errors
    /// The record cannot be written, or is of a newer generation or of a primary.
    pub fn outdate(&self, generation: Generation) -> Result<(), AuthorityError> {
        self.memory().outdate(generation)
    }

    /// Keeps others from the state directory until nothing is left of this process.
    pub(crate) fn keep_lock(&self) {
        self.memory().keep_lock();
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    // The record is replaced as a whole or not at all, so that it is whole even after a panic.
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_id() -> Result<u64, AuthorityError> {
    getrandom::u64().map_err(AuthorityError::Random)
}
