//! Who is in, who waits, and whose turn it is.

mod held;

use std::{sync::Arc, task::Waker};

use tokio::time::Instant;

use self::held::Held;
use super::{
    entry::After,
    gate::{Answer, Ask, End, Gate, HeadEnd, How, Queued},
    heads::Heads,
    list::{Key, List},
    priority::MAX_PASSED,
    readiness::Pending,
    timers::Timers,
};
use crate::{BoxError, outcome::Outcome};

/// What an entry's lock is around.
///
/// What every call touches comes first, and the gate puts its own first too.
#[repr(C)]
pub(super) struct State<G: Gate> {
    /// How many calls have been admitted and not settled.
    out: usize,
    /// When a call was last refused or settled.
    last_use: Option<Instant>,
    /// Whether somebody may wait, in the queue or in `poll_ready`, or no more calls
    /// are admitted.
    crowded: bool,
    /// Whether no more calls are admitted.
    draining: bool,
    /// How often in a row the one who has waited the longest was passed over.
    passed: u32,
    pub(super) gate: G,
    pub(super) holds: List<Held<G::Ticket>>,
    /// Who waits, by lane.
    pub(super) queue: List<Waiting<G::Ticket>>,
    /// How many of them have a task to wake.
    pub(super) parked: usize,
    heads: Option<Arc<Heads>>,
    /// Those who wait in `poll_ready` for the circuit.
    pub(super) pending: Pending,
    pub(super) timers: Timers,
}

pub(super) struct Waiting<T> {
    pub(super) ask: Ask,
    /// How long it waits at most.
    until: Instant,
    pub(super) answer: Option<Result<Grant<T>, BoxError>>,
    pub(super) waker: Option<Waker>,
}

#[derive(Clone, Copy)]
pub(super) struct Grant<T> {
    pub(super) ticket: T,
    pub(super) at: Instant,
}

impl<G: Gate> State<G> {
    pub(super) fn new(gate: G, heads: Option<Arc<Heads>>, draining: bool) -> Self {
        Self {
            out: 0,
            last_use: None,
            crowded: draining,
            draining,
            passed: 0,
            queue: List::new(gate.lanes()),
            gate,
            holds: List::new(1),
            parked: 0,
            heads,
            pending: Pending::default(),
            timers: Timers::default(),
        }
    }

    pub(super) fn gate(&self) -> &G {
        &self.gate
    }

    pub(super) fn gate_mut(&mut self) -> &mut G {
        &mut self.gate
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.out == 0
    }

    /// After a look at the state: sees to those who wait in `poll_ready`. Returns
    /// whether the last call of a host that is drained has ended.
    #[inline]
    pub(super) fn looked_at(&mut self, after: &mut After) -> bool {
        self.crowded && self.see_to_crowd(after)
    }

    #[inline(never)]
    fn see_to_crowd(&mut self, after: &mut After) -> bool {
        self.stir(after);
        self.crowded = self.draining || self.queue.len() > 0 || !self.pending.is_empty();
        self.draining && self.out == 0
    }

    /// Somebody waits in `poll_ready`.
    pub(super) fn crowd(&mut self) {
        self.crowded = true;
    }

    pub(super) fn queue(&mut self) -> &mut List<Waiting<G::Ticket>> {
        &mut self.queue
    }

    pub(super) fn last_use(&self) -> Option<Instant> {
        self.last_use
    }

    #[inline]
    pub(super) fn settle(&mut self, ticket: G::Ticket, end: &End, after: &mut After) {
        self.out -= 1;
        self.last_use = Some(end.now);
        self.gate.settle(ticket, end, &mut after.events);
    }

    /// Ends a call whose head's moment is among the heads.
    #[inline]
    pub(super) fn settle_head(&mut self, ticket: G::Ticket, end: &HeadEnd, after: &mut After) {
        if let Some(heads) = &self.heads
            && self.gate.settle_head(ticket, heads, end, &mut after.events)
        {
            self.out -= 1;
            self.last_use = Some(end.now);
        }
    }

    /// The same of one that was a success and all there at that moment, if there is
    /// nobody to be told of it, and nothing to be seen to besides.
    #[cfg(feature = "server")]
    #[inline]
    pub(super) fn settle_quietly(&mut self, ticket: G::Ticket, heads: &Heads, at: Instant) -> bool {
        let quiet = !self.crowded
            && self.holds.len() == 0
            && self.gate.overdue_at().is_none_or(|overdue| at < overdue);
        let settled = quiet.then(|| self.gate.settle_quietly(ticket, heads, at));
        match settled.flatten() {
            Some(true) => {
                self.out -= 1;
                self.last_use = Some(at);
                true
            }
            Some(false) => true,
            None => false,
        }
    }

    /// Lets a newcomer go while nobody waits, if its gate says so without asking
    /// what else there is. What is held for too long is then in nobody's way.
    #[inline]
    pub(super) fn admit_at_once(
        &mut self,
        admit: impl FnOnce(&mut G) -> Option<G::Ticket>,
    ) -> Option<G::Ticket> {
        if self.crowded && (self.draining || self.queue.len() > 0) {
            return None;
        }
        let ticket = admit(&mut self.gate)?;
        self.out += 1;
        Some(ticket)
    }

    /// Refuses a newcomer where there is nothing to be seen to first: nobody
    /// waits, and no held call can change the gate's mind.
    #[inline]
    pub(super) fn refuse_at_once(&mut self, now: Instant) -> Option<BoxError> {
        self.last_use = Some(now);
        let quiet = !self.crowded && self.holds.len() == 0;
        quiet.then(|| self.gate.refuses(now)).flatten()
    }

    /// Asks for a newcomer. Whoever waits goes first.
    pub(super) fn enter(&mut self, ask: Ask, after: &mut After) -> Answer<Grant<G::Ticket>> {
        let now = ask.now;
        self.last_use = Some(now);
        self.reclaim(now, after);
        self.pump(now, after);
        if let Some(refused) = self.gate.rejects(&ask, &mut after.events) {
            return Answer::Refuse(refused);
        }
        if self.first().is_some() {
            return match self.gate.refuses(now) {
                Some(refused) => Answer::Refuse(refused),
                None => Answer::Wait,
            };
        }
        match self.gate.ask(ask, &mut after.events) {
            Answer::Go(ticket) => {
                self.out += 1;
                Answer::Go(Grant { ticket, at: now })
            }
            Answer::Wait => Answer::Wait,
            Answer::Refuse(refused) => Answer::Refuse(refused),
        }
    }

    fn answer(
        &mut self,
        key: Key,
        answer: Result<Grant<G::Ticket>, BoxError>,
        now: Instant,
        after: &mut After,
    ) {
        self.queue.unlink(key);
        if let Some(waiting) = self.queue.get_mut(key) {
            if let (Err(_), Some(place)) = (&answer, waiting.ask.place) {
                self.gate.leave(place, now);
            }
            waiting.answer = Some(answer);
        }
        self.wake(key, after);
    }

    pub(super) fn wake(&mut self, key: Key, after: &mut After) {
        let waiting = self.queue.get_mut(key);
        if let Some(waker) = waiting.and_then(|waiting| waiting.waker.take()) {
            self.parked -= 1;
            after.wake.push(waker);
        }
    }

    /// Wakes all who wait in the queue, to look how long they may.
    #[cfg(feature = "config")]
    pub(super) fn wake_all(&mut self, after: &mut After) {
        let wakers = self.queue.values_mut();
        after
            .wake
            .extend(wakers.filter_map(|waiting| waiting.waker.take()));
        self.parked = 0;
    }

    /// A newcomer waits, `until` then at most. Returns until when the gate lets it.
    pub(super) fn enqueue(
        &mut self,
        ask: Ask,
        until: Instant,
        after: &mut After,
    ) -> (Key, Instant) {
        let Queued { place, until: own } = self.gate.queue(&ask, &mut after.events);
        let until = own.map_or(until, |own| own.min(until));
        self.crowded = true;
        let waiting = Waiting {
            ask: Ask { place, ..ask },
            until,
            answer: None,
            waker: None,
        };
        (self.queue.push_back(ask.load.lane, waiting), until)
    }

    /// A waiter waits until then at most, as the settings now are; says whether it
    /// still does.
    pub(super) fn bound(&mut self, key: Key, until: Instant) -> bool {
        let waiting = self.queue.get_mut(key);
        let waits = waiting.filter(|waiting| waiting.answer.is_none());
        waits.map(|waiting| waiting.until = until).is_some()
    }

    /// The first of each lane that can have its turn, the highest lane first.
    fn fronts(&self) -> impl Iterator<Item = Key> {
        let open = |(lane, _): &(usize, Key)| !self.gate.is_blocked(*lane);
        self.queue.fronts().filter(open).map(|(_, key)| key)
    }

    /// Whose turn it is: the first of the highest lane, unless the one who has
    /// waited the longest was passed over too often.
    pub(super) fn first(&self) -> Option<Key> {
        let mut fronts = self.fronts();
        if self.passed < MAX_PASSED {
            return fronts.next();
        }
        fronts.reduce(|oldest, key| {
            if key.is_older_than(oldest) {
                key
            } else {
                oldest
            }
        })
    }

    /// Counts that it was `key`'s turn.
    fn pass(&mut self, key: Key) {
        let older = |front: Key| front.is_older_than(key);
        self.passed = if self.fronts().any(older) {
            self.passed + 1
        } else {
            0
        };
    }

    /// Answers those who wait, first come first served, as far as the gate
    /// lets them; then sees to it that somebody has a timer for what comes next.
    #[inline]
    pub(super) fn pump(&mut self, now: Instant, after: &mut After) {
        if self.crowded && self.queue.len() > 0 {
            self.serve(now, after);
            self.alert(now, after);
        }
    }

    /// Answers those who wait, and has bodies give their slots up to them that would
    /// keep these for too long.
    pub(super) fn serve(&mut self, now: Instant, after: &mut After) {
        self.serve_the_first(now, after);
        while self.relief(now).is_some_and(|at| at <= now) {
            if let Some(key) = self.holds.front(0) {
                self.release(key, now, after);
            }
            self.serve_the_first(now, after);
        }
    }

    fn serve_the_first(&mut self, now: Instant, after: &mut After) {
        while let Some(key) = self.first() {
            let Some(waiting) = self.queue.get(key) else {
                break;
            };
            let ask = Ask {
                now,
                crowded: true,
                ..waiting.ask
            };
            let answer = match self.gate.ask(ask, &mut after.events) {
                Answer::Go(ticket) => {
                    self.out += 1;
                    Ok(Grant { ticket, at: now })
                }
                Answer::Refuse(refused) => Err(refused),
                Answer::Wait => break,
            };
            self.pass(key);
            self.answer(key, answer, now, after);
        }
    }

    /// What the gate says to a waiter whose patience is over.
    pub(super) fn lose_patience(&mut self, key: Key, now: Instant) -> Option<BoxError> {
        let place = self.queue.get(key)?.ask.place?;
        self.gate.lose_patience(place, now)
    }

    /// A waiter leaves without having been served.
    pub(super) fn leave(&mut self, key: Key, now: Instant, after: &mut After) {
        let mut waiting = self.queue.remove(key);
        let waker = waiting.as_mut().and_then(|waiting| waiting.waker.take());
        self.parked -= usize::from(waker.is_some());
        after.discard(waker);
        match waiting.map(|waiting| (waiting.answer, waiting.ask.place)) {
            Some((Some(Ok(grant)), _)) => {
                // Nothing was sent: however late it is, the upstream is not to blame.
                let how = How::Outcome(Outcome::ignored());
                let end = End::new(Some(grant.at), now, how);
                self.settle(grant.ticket, &end, after);
            }
            Some((None, Some(place))) => self.gate.leave(place, now),
            _ => {}
        }
        self.pump(now, after);
    }

    /// Admits no more, and refuses those who wait. Returns how many they were.
    pub(super) fn close(
        &mut self,
        now: Instant,
        refusal: impl Fn() -> BoxError,
        after: &mut After,
    ) -> usize {
        self.draining = true;
        self.crowded = true;
        self.reclaim(now, after);
        let mut waited = 0;
        while let Some((_, key)) = { self.queue.fronts().next() } {
            self.answer(key, Err(refusal()), now, after);
            waited += 1;
        }
        waited
    }
}
