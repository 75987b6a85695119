//! The standby: guest memory here follows the primary's, checkpoint by checkpoint, until this node is promoted.

use std::time::Instant;

use kemari_control::Standing;
use kemari_core::{Generation, Image, NotAGeneration, PageRun, PageSet};
use kemari_protocol::Chunk;
use kemari_protocol::standby::{Event, Held, Phase, Promoted, Standby as Protocol};

use super::crash::Ledger;
use super::host::Host;
use super::news::Ticket;
use super::stop::GUEST_IS_DOWN;
use super::{DaemonError, Outcome, TURN};
use crate::link::Link;

/// Why an outdated image is not resumed.
const OUTDATED: &str = "this node is outdated: it promised that the primary may go on without it; it can be promoted again \
                        once a primary has brought it in sync";

/// Why the image of a guest that was shut down is not resumed.
const OVER: &str = "the guest was shut down; it can be booted, and not resumed";

/// The standby's side of one guest.
pub(super) struct Standby {
    pub(super) protocol: Protocol,
    pub(super) link: Option<Link>,
    /// Whether somebody wants this node promoted, and who waits for the answer.
    promotion: Option<Promotion>,
    asked_at: Instant,
    nonce: u64,
    /// Why there is no replication, if the last attempt failed.
    pub(super) trouble: Option<String>,
    /// The last turn ended before everything was done that had arrived.
    has_more: bool,
    /// Whether this node has promised never to resume what it holds.
    outdated: bool,
    /// Whether the guest ended in order, so that what is held here would raise it from the dead.
    is_over: bool,
    /// Whether what is held here is the final image that this node cut as primary.
    own_final: bool,
    /// The image whose state is in the machine, ready to run.
    loaded: Option<Image>,
    /// What the primary had counted when it left because the guest crashed.
    crashes: Ledger,
}

/// Who asked for a promotion.
#[derive(Clone, Copy)]
pub(super) enum Promotion {
    /// The operator, who waits at the control socket.
    Operator(Ticket),
    /// The primary, which is handing over.
    Primary,
}

impl Standby {
    /// A standby that holds `held`: memory is as of that image.
    pub(super) fn new(host: &Host, held: Option<Held>) -> Result<Standby, DaemonError> {
        let own_final = held.is_some();
        let protocol = Protocol::new(host.protocol.clone(), host.authority.generation(), held)?;
        Ok(Standby {
            protocol,
            link: None,
            promotion: None,
            asked_at: Instant::now(),
            nonce: 0,
            trouble: None,
            has_more: false,
            outdated: host.authority.standing() == Some(Standing::Outdated),
            is_over: false,
            own_final,
            loaded: None,
            crashes: Ledger::default(),
        })
    }

    /// Takes over a link that a peer has opened, if there is none yet.
    pub(super) fn adopt(&mut self, host: &mut Host, link: Link) {
        // One that is only waiting for its last words to be taken makes way.
        if self.link.is_some() && !self.is_alone() {
            log::info!("{}: refused: another primary is connected", link.peer());
            return;
        }
        self.link = Some(link);
        host.machine.set_listening(false);
    }

    /// Begins a promotion: the answer comes as an outcome, or goes to the one who asked.
    pub(super) fn request_promotion(&mut self, now: Instant, host: &mut Host, ticket: Ticket) {
        if let Some(reason) = [(self.outdated, OUTDATED), (self.is_over, OVER)].iter().find(|(is, _)| *is) {
            host.news.refuse(ticket, format!("not promoted: {}", reason.1));
            return;
        }
        self.nonce += 1;
        match self.protocol.freeze(now, self.nonce) {
            Ok(()) => {
                self.promotion = Some(Promotion::Operator(ticket));
                self.asked_at = now;
            }
            Err(error) => host.news.refuse(ticket, format!("not promoted: {error}")),
        }
    }

    /// What the primary had counted when it left because the guest crashed; nothing, if it did not.
    pub(super) fn crashes(&self) -> Ledger {
        self.crashes
    }

    /// When the promotion was asked for.
    pub(super) fn asked_at(&self) -> Instant {
        self.asked_at
    }

    /// Whether a promotion is on its way.
    pub(super) fn is_being_promoted(&self) -> bool {
        self.promotion.is_some()
    }

    /// The image that may be resumed here.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn promotable(&self) -> Result<Image, String> {
        match self.protocol.promotable() {
            Ok(_) if self.outdated => Err(OUTDATED.to_owned()),
            Ok(_) if self.is_over => Err(OVER.to_owned()),
            Ok(image) => Ok(image),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Promises never to resume what is held here of `generation`, if it was committed before `before_epoch`.
    pub(super) fn outdate(&mut self, host: &mut Host, ticket: Ticket, generation: &str, before_epoch: Option<u64>) {
        match self.promise(host, generation, before_epoch) {
            Ok(()) => {
                self.outdated = true;
                // What is on its way was sent before the promise, and must not pass for what voids it.
                self.leave(Instant::now(), "outdated");
                let detail = format!("outdated in generation {generation}: the primary may go on without this node");
                host.news.emit("outdated", &detail);
                host.news.grant(ticket, detail);
            }
            Err(reason) => host.news.refuse(ticket, format!("not outdated: {reason}")),
        }
    }

    fn promise(&self, host: &Host, generation: &str, before_epoch: Option<u64>) -> Result<(), String> {
        if self.is_being_promoted() {
            return Err("a promotion is on its way".to_owned());
        }
        let generation: Generation = generation.parse().map_err(|error: NotAGeneration| error.to_string())?;
        // The primary that asked had lost this node then, and has had it back since. It does not need the promise any more; and if
        // it is gone now, this image is the only one there is.
        if let (Some(image), Some(before)) = (self.protocol.image(), before_epoch)
            && image.generation == generation
            && image.epoch.number() >= before
        {
            return Err(format!("this node was in sync after that: it holds {image}"));
        }
        host.authority.outdate(generation).map_err(|error| error.to_string())
    }

    /// A whole checkpoint was committed: what is held is the newest there is, and an older promise about it is void.
    fn renew(&mut self, host: &Host) -> Result<(), DaemonError> {
        if std::mem::take(&mut self.outdated)
            && let Some(generation) = host.authority.generation()
        {
            host.authority.follow(generation)?;
        }
        Ok(())
    }

    /// Says goodbye to the primary, if there is one.
    pub(super) fn leave(&mut self, now: Instant, reason: &str) {
        self.protocol.leave(now, reason);
        self.transmit();
    }

    /// Whether there is no image here that could be promoted or brought up to date.
    pub(super) fn holds_nothing(&self) -> bool {
        self.is_over || self.protocol.status().image.is_none()
    }

    /// Whether the image held is the final one of a handover, of which nothing is known to have followed.
    pub(super) fn holds_final(&self) -> bool {
        self.own_final || self.protocol.status().yielded
    }

    /// Whether no primary is connected.
    pub(super) fn is_alone(&self) -> bool {
        self.protocol.status().phase == Phase::Alone
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let at_once = self.has_more.then(Instant::now);
        let link = self.link.as_ref().and_then(Link::next_timeout);
        [at_once, self.protocol.next_timeout(), link].into_iter().flatten().min()
    }

    /// Does everything there is to do.
    ///
    /// # Errors
    /// What this node cannot go on after.
    pub(super) fn pump(&mut self, host: &mut Host) -> Result<Outcome, DaemonError> {
        // What has arrived comes before what is late: after a pause of this process both are so.
        self.receive();
        let begun = Instant::now();
        if self.protocol.next_timeout().is_some_and(|at| at <= begun) {
            self.protocol.timeout(begun);
        }
        self.has_more = false;
        loop {
            while let Some(event) = self.protocol.event() {
                if self.act(host, event)? {
                    return Ok(Outcome::Promote);
                }
            }
            self.transmit();
            if !self.receive() {
                return Ok(Outcome::Stay);
            }
            if begun.elapsed() >= TURN {
                // A primary that sends faster than this node takes must not keep heartbeats and operators waiting.
                self.has_more = true;
                return Ok(Outcome::Stay);
            }
        }
    }

    /// Takes one message off the link, so that what it causes is done before the next: a bounded amount is in memory at any
    /// time. Returns whether there was something.
    fn receive(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let now = Instant::now();
        if link.just_came_up() {
            self.protocol.link_up(now);
            self.trouble = None;
            self.crashes = Ledger::default();
        }
        match link.receive() {
            Ok(Some(message)) => {
                self.protocol.receive(now, message);
                return true;
            }
            Ok(None) => {}
            Err(error) => {
                self.protocol.garbled(now, &error);
                return true;
            }
        }
        if let Some(reason) = link.closed() {
            self.protocol.link_down(now, reason);
            self.link = None;
            return true;
        }
        false
    }

    /// Acts on one event of the protocol. Returns whether this node may be promoted now.
    fn act(&mut self, host: &mut Host, event: Event) -> Result<bool, DaemonError> {
        let now = Instant::now();
        match event {
            Event::Close => {
                self.transmit();
                if let Some(link) = &mut self.link {
                    link.close_when_sent();
                }
            }
            Event::AdoptGeneration(generation) => {
                host.authority.follow(generation)?;
                self.outdated = false;
                self.own_final = false;
                self.protocol.adopted(now, generation);
            }
            Event::Void => {
                host.news.emit("resync", "the primary sends the whole guest; nothing to promote until it is done")
            }
            Event::Write(chunk) => {
                self.loaded = None;
                write(host, &chunk)?;
            }
            Event::Commit { chunks, .. } => {
                self.loaded = None;
                self.own_final = false;
                self.is_over = false;
                self.renew(host)?;
                host.committed_at = Some(now);
                for chunk in &chunks {
                    write(host, chunk)?;
                }
            }
            Event::PageWanted { page } => {
                let run = PageRun { first: page, count: 1 };
                let mut content = Vec::new();
                host.machine.copy_pages(run, &mut content)?;
                self.protocol.give_page(Chunk::new(vec![run], content)?);
            }
            Event::Rehearse => self.rehearse(now, host),
            Event::Frozen => return Ok(true),
            Event::FreezeRefused { reason } => self.refuse(now, host, &reason),
            Event::PromoteRequested { image } => self.primary_yields(now, host, image),
            Event::PeerLost { reason } => self.peer_gone(host, "peer-lost", reason),
            Event::PeerLeft { reason } => {
                self.crashes = Ledger::of_farewell(&reason).unwrap_or_default();
                self.is_over |= reason == GUEST_IS_DOWN;
                self.peer_gone(host, "peer-left", reason);
            }
            Event::Refused { reason } => {
                log::error!("no replication: {reason}");
                self.peer_gone(host, "refused", reason);
            }
        }
        Ok(false)
    }

    fn peer_gone(&mut self, host: &mut Host, event: &str, reason: String) {
        host.news.emit(event, &reason);
        self.trouble = Some(reason);
        // A promotion may follow, and is to wait for as little as possible. If it cannot be loaded, that is said then.
        if self.promotable().is_ok() {
            match self.prepare(host) {
                // Nobody else may be hearing any more what comes for the guest.
                Ok(_) => host.machine.set_listening(true),
                Err(error) => log::error!("{error}"),
            }
        }
    }

    /// Puts the state of the image held into the machine, so that it could run. That changes nothing in the image.
    ///
    /// # Errors
    /// There is nothing to promote, or this host cannot load it.
    pub(super) fn prepare(&mut self, host: &mut Host) -> Result<Image, String> {
        let image = self.promotable()?;
        if self.loaded != Some(image) {
            self.loaded = None;
            // What the commits have written is in the image; from here the logs say what differs from it.
            host.machine.harvest(&mut PageSet::empty(host.machine.pages())).map_err(|error| error.to_string())?;
            if let Some(state) = self.protocol.state() {
                host.load(state).map_err(|error| format!("this host cannot load the guest: {error}"))?;
            }
            self.loaded = Some(image);
        }
        Ok(image)
    }

    /// Loads the image's state and reads it back, as a promotion would; nothing runs, and memory stays as it is.
    fn rehearse(&mut self, now: Instant, host: &mut Host) {
        let Some(state) = self.protocol.state() else { return };
        self.loaded = None;
        let begun = Instant::now();
        let result = host.load(state).and_then(|()| host.read_back(state));
        match &result {
            Ok(()) => {
                host.news.emit("rehearsed", &format!("a checkpoint was loaded and read back in {:?}", begun.elapsed()))
            }
            Err(error) => {
                log::error!("this host cannot load the guest: {error}");
                host.news.emit("rehearsal-failed", &error.to_string());
            }
        }
        self.protocol.rehearsed(now, result.map_err(|error| error.to_string()));
    }

    fn primary_yields(&mut self, now: Instant, host: &mut Host, image: Image) {
        self.nonce += 1;
        match self.protocol.freeze(now, self.nonce) {
            Ok(()) => {
                self.promotion.get_or_insert(Promotion::Primary);
                self.asked_at = now;
                host.news.emit("handover", &format!("the primary hands over at {image}"));
            }
            Err(error) => self.protocol.refuse_promotion(now, &error.to_string()),
        }
    }

    /// Ends a promotion that was asked for.
    pub(super) fn refuse(&mut self, now: Instant, host: &mut Host, reason: &str) {
        match self.promotion.take() {
            Some(Promotion::Operator(ticket)) => {
                self.protocol.unfreeze(now);
                host.news.refuse(ticket, format!("not promoted: {reason}"));
            }
            Some(Promotion::Primary) => self.protocol.refuse_promotion(now, reason),
            None => self.protocol.unfreeze(now),
        }
        log::warn!("not promoted: {reason}");
    }

    /// Ends this side: the node is the primary of `generation` now. Gives back who asked, and the link, which has only a
    /// farewell left to carry.
    ///
    /// # Errors
    /// The freeze does not stand any more.
    pub(super) fn promote(
        mut self,
        generation: Generation,
    ) -> Result<(Promoted, Option<Promotion>, Option<Link>), Box<Standby>> {
        match self.protocol.promote(generation) {
            Ok(mut promoted) => {
                if let Some(link) = &mut self.link {
                    for message in promoted.farewell.drain(..) {
                        link.send(message);
                    }
                    link.close_when_sent();
                }
                Ok((promoted, self.promotion, self.link))
            }
            Err(protocol) => Err(Box::new(Standby { protocol: *protocol, ..self })),
        }
    }

    /// Sends what there is to send.
    pub(super) fn transmit(&mut self) {
        let Some(link) = &mut self.link else { return };
        while let Some(message) = self.protocol.transmit(Instant::now()) {
            link.send(message);
        }
        link.flush();
    }
}

fn write(host: &mut Host, chunk: &Chunk) -> Result<(), DaemonError> {
    for (run, content) in chunk.contents() {
        host.machine.write_pages(run, content)?;
    }
    Ok(())
}
