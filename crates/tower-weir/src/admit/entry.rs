use std::{
    sync::{Arc, PoisonError},
    task::Waker,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    gate::{Answer, Ask, End, Gate, How, Queued},
    list::{Key, List},
    permit::Ending,
    priority::MAX_PASSED,
    readiness::Pending,
};
use crate::{
    BoxError,
    deadline::far,
    error::ShuttingDown,
    observe::{Event, Events, Seam},
    outcome::Outcome,
    shutdown::Member,
    sync::{Mutex, MutexGuard},
};

/// One upstream: its gate, those who wait for it, and the responses that still
/// hold a slot of it.
pub(crate) struct Entry<G: Gate> {
    host: Arc<str>,
    seam: Seam,
    /// Told when the last call of a host that is drained has ended.
    drained: Arc<Notify>,
    state: Mutex<State<G>>,
}

pub(super) struct State<G: Gate> {
    gate: G,
    /// Who waits, by lane.
    queue: List<Waiting<G::Ticket>>,
    /// How many of them have a task to wake.
    parked: usize,
    /// How often in a row the one who has waited the longest was passed over.
    passed: u32,
    holds: List<Held<G::Ticket>>,
    /// Those who wait in `poll_ready` for the circuit.
    pending: Pending,
    /// How many calls have been admitted and not settled.
    out: usize,
    /// Whether no more calls are admitted.
    draining: bool,
    /// Who sees to the next event, and the moment their timer is set to.
    armed: Option<(Key, Instant)>,
}

pub(super) struct Waiting<T> {
    ask: Ask,
    pub(super) answer: Option<Result<Grant<T>, BoxError>>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy)]
pub(super) struct Grant<T> {
    pub(super) ticket: T,
    pub(super) at: Instant,
}

/// A call whose headers were good and whose body is still with the caller.
struct Held<T> {
    until: Instant,
    ticket: T,
    end: End,
}

/// What is done once the lock is released: tasks to wake, events to tell.
#[derive(Default)]
pub(super) struct After {
    wake: Vec<Waker>,
    events: Events,
}

impl After {
    #[cold]
    fn tell(self, host: &str, seam: &Seam) {
        for waker in self.wake {
            waker.wake();
        }
        self.events.tell(host, seam);
    }
}

impl<G: Gate> Entry<G> {
    pub(crate) fn new(
        host: Arc<str>,
        gate: G,
        seam: Seam,
        drained: Arc<Notify>,
        draining: bool,
    ) -> Self {
        Self {
            host,
            seam,
            drained,
            state: Mutex::new(State {
                queue: List::new(gate.lanes()),
                gate,
                parked: 0,
                passed: 0,
                holds: List::new(1),
                pending: Pending::default(),
                out: 0,
                draining,
                armed: None,
            }),
        }
    }

    pub(crate) fn host(&self) -> &Arc<str> {
        &self.host
    }

    /// Reads the state, and tells what comes of it after the lock is released.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State<G>, &mut After) -> R) -> R {
        let mut after = After::default();
        let mut state = self.lock();
        let result = f(&mut state, &mut after);
        state.stir(&mut after);
        let drained = state.draining && state.out == 0;
        drop(state);
        if drained {
            self.drained.notify_waiters();
        }
        // Nearly always, nothing came of it.
        if !after.wake.is_empty() || !after.events.is_empty() {
            after.tell(&self.host, &self.seam);
        }
        result
    }

    /// Tells that a call was refused.
    pub(super) fn refused(&self, error: &BoxError) {
        self.seam.tell(&self.host, Event::refusal(error));
    }

    fn lock(&self) -> MutexGuard<'_, State<G>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn settle(&self, ticket: G::Ticket, end: End) {
        self.with(|state, after| {
            state.settle(ticket, end, after);
            state.pump(end.now, after);
        });
    }

    /// Keeps the call's slot until its body ends, at most for `max_hold`.
    pub(super) fn hold(&self, ticket: G::Ticket, end: End, max_hold: Duration) -> Key {
        self.with(|state, after| {
            let hold = state.gate.hold(ticket);
            let until = far(end.now, hold.map_or(max_hold, |hold| hold.min(max_hold)));
            let held = Held { until, ticket, end };
            let key = state.holds.insert_sorted(0, held, |held| held.until);
            // Until now, nobody in the queue knew of this moment.
            state.alert(end.now, after);
            key
        })
    }

    /// Settles a held call, unless its time was up and somebody else did.
    pub(super) fn settle_held(&self, key: Key, now: Instant, ending: Ending) {
        self.with(|state, after| {
            if let Some(mut held) = state.holds.remove(key) {
                held.end.now = now;
                if let Some(instead) = ending.instead {
                    held.end.how = instead;
                }
                if ending.unary {
                    held.end.rtt = now.saturating_duration_since(held.end.started);
                }
                state.settle(held.ticket, held.end, after);
                state.pump(now, after);
            }
        });
    }

    pub(crate) fn inspect<R>(&self, f: impl FnOnce(&mut G, usize) -> R) -> R {
        let mut state = self.lock();
        let waiting = state.queue.len();
        f(&mut state.gate, waiting)
    }

    /// Changes the gate from outside, and lets those go whom that admits.
    pub(crate) fn change(&self, now: Instant, f: impl FnOnce(&mut G, &mut Events)) {
        self.with(|state, after| {
            f(&mut state.gate, &mut after.events);
            state.pump(now, after);
        });
    }

    /// Looks for a service that is to be ready only while a call may be
    /// admitted. If none may, the service has this place among those who are
    /// woken when that changes; the moment at which time alone may change it is
    /// for the service's own timer.
    pub(super) fn pend(
        &self,
        place: Option<usize>,
        waker: &Waker,
        now: Instant,
    ) -> Option<(usize, Option<Instant>)> {
        self.with(|state, after| {
            state.reclaim(now, after);
            state.pump(now, after);
            if !state.is_shut(now) {
                if let Some(place) = place {
                    state.pending.leave(place);
                }
                return None;
            }
            let until = state.event(1, now);
            Some((state.pending.park(place, waker, until), until))
        })
    }

    pub(super) fn unpend(&self, place: usize) {
        self.lock().pending.leave(place);
    }
}

impl<G: Gate> Member for Entry<G> {
    fn close(&self) -> usize {
        let now = Instant::now();
        self.with(|state, after| {
            state.draining = true;
            state.reclaim(now, after);
            let mut waited = 0;
            while let Some((_, key)) = { state.queue.fronts().next() } {
                let refused = ShuttingDown::unsent(self.host.clone());
                state.answer(key, Err(refused.into()), now, after);
                waited += 1;
            }
            waited
        })
    }

    fn is_quiet(&self) -> bool {
        self.lock().out == 0
    }

    fn bodies(&self) -> usize {
        self.lock().holds.len()
    }
}

impl<G: Gate> State<G> {
    pub(super) fn gate(&self) -> &G {
        &self.gate
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    fn is_shut(&self, now: Instant) -> bool {
        !self.draining && self.gate.is_shut(now)
    }

    /// Wakes those who wait in `poll_ready` if they need wait no longer, or
    /// their timers are set to what will not come then.
    fn stir(&mut self, after: &mut After) {
        if self.pending.is_empty() {
            return;
        }
        let now = Instant::now();
        if !self.is_shut(now) || !self.pending.expects(self.event(1, now)) {
            after.wake.extend(self.pending.wake());
        }
    }

    fn settle(&mut self, ticket: G::Ticket, end: End, after: &mut After) {
        self.out -= 1;
        self.gate.settle(ticket, end, &mut after.events);
    }

    pub(super) fn queue(&mut self) -> &mut List<Waiting<G::Ticket>> {
        &mut self.queue
    }

    /// Asks for a newcomer. Whoever waits goes first.
    pub(super) fn enter(&mut self, ask: Ask, after: &mut After) -> Answer<Grant<G::Ticket>> {
        let now = ask.now;
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

    fn wake(&mut self, key: Key, after: &mut After) {
        let waiting = self.queue.get_mut(key);
        if let Some(waker) = waiting.and_then(|waiting| waiting.waker.take()) {
            self.parked -= 1;
            after.wake.push(waker);
        }
    }

    /// Returns until when the gate lets it wait, too.
    pub(super) fn enqueue(&mut self, ask: Ask, after: &mut After) -> (Key, Option<Instant>) {
        let Queued { place, until } = self.gate.queue(&ask, &mut after.events);
        let waiting = Waiting {
            ask: Ask { place, ..ask },
            answer: None,
            waker: None,
        };
        (self.queue.push_back(ask.load.lane, waiting), until)
    }

    /// The first of each lane that can have its turn, the highest lane first.
    fn fronts(&self) -> impl Iterator<Item = Key> {
        let open = |(lane, _): &(usize, Key)| !self.gate.is_blocked(*lane);
        self.queue.fronts().filter(open).map(|(_, key)| key)
    }

    /// Whose turn it is: the first of the highest lane, unless the one who has
    /// waited the longest was passed over too often.
    fn first(&self) -> Option<Key> {
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

    /// Settles what has been held for too long: a body that nobody polls runs
    /// no timer, so those who want its slot look.
    pub(super) fn reclaim(&mut self, now: Instant, after: &mut After) {
        while let Some(key) = self.holds.front(0) {
            if self.holds.get(key).is_none_or(|held| held.until > now) {
                break;
            }
            if let Some(mut held) = self.holds.remove(key) {
                held.end.now = now;
                self.settle(held.ticket, held.end, after);
            }
        }
    }

    /// Answers those who wait, first come first served, as far as the gate
    /// lets them; then sees to it that somebody has a timer for what comes next.
    #[inline]
    pub(super) fn pump(&mut self, now: Instant, after: &mut After) {
        if self.queue.len() == 0 {
            return;
        }
        self.serve(now, after);
        self.alert(now, after);
    }

    pub(super) fn serve(&mut self, now: Instant, after: &mut After) {
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

    /// Unless a timer is set for the next event, or somebody has been woken who
    /// will set it, wakes the first in line. One who was never polled can set
    /// no timer: then it is the next.
    pub(super) fn alert(&mut self, now: Instant, after: &mut After) {
        let Some(event) = self.next_event(now) else {
            return;
        };
        // A caller may make all its calls before it polls one: those have no
        // task yet, and each call that comes would search them all.
        if self.parked == 0 || self.timer(now, event).is_some() {
            return;
        }
        if let Some(key) = self.queue.find(|waiting| waiting.waker.is_some()) {
            self.armed = Some((key, event));
            self.wake(key, after);
        }
    }

    /// Registers a waiter's task; returns when it should look again by itself,
    /// which only one in the queue need do.
    pub(super) fn park(&mut self, key: Key, waker: &Waker, now: Instant) -> Option<Instant> {
        if let Some(waiting) = self.queue.get_mut(key) {
            match &mut waiting.waker {
                Some(old) => old.clone_from(waker),
                none => {
                    self.parked += 1;
                    *none = Some(waker.clone());
                }
            }
        }
        let event = self.next_event(now)?;
        // A call that was woken and is not polled may never be: its task can be
        // busy with the one that is.
        let other = self.timer(now, event).filter(|other| *other != key);
        if other.is_some_and(|key| self.queue.get(key).is_some_and(|w| w.waker.is_some())) {
            return None;
        }
        self.armed = Some((key, event));
        Some(event)
    }

    /// Who waits with a timer that goes off in time for `event`.
    fn timer(&self, now: Instant, event: Instant) -> Option<Key> {
        let (key, at) = self.armed?;
        let waits = self.queue.get(key)?.answer.is_none();
        (waits && now < at && at <= event).then_some(key)
    }

    fn weight(&self, key: Key) -> usize {
        self.queue.get(key).map_or(1, |waiting| waiting.ask.weight)
    }

    /// When time alone changes something for those who wait, if anybody does.
    fn next_event(&self, now: Instant) -> Option<Instant> {
        self.queue.fronts().next()?;
        match self.first() {
            Some(head) => self.event(self.weight(head), now),
            // A lane that is blocked may be so by what is held.
            None => self.held_until(),
        }
    }

    fn event(&self, weight: usize, now: Instant) -> Option<Instant> {
        let free = self.gate.next_event(weight, now);
        free.into_iter().chain(self.held_until()).min()
    }

    fn held_until(&self) -> Option<Instant> {
        let held = self.holds.front(0).and_then(|key| self.holds.get(key));
        held.map(|held| held.until)
    }

    /// What the gate says to a waiter whose patience is over.
    pub(super) fn lose_patience(&mut self, key: Key, now: Instant) -> Option<BoxError> {
        let place = self.queue.get(key)?.ask.place?;
        self.gate.lose_patience(place, now)
    }

    /// A waiter leaves without having been served.
    pub(super) fn leave(&mut self, key: Key, now: Instant, after: &mut After) {
        let waiting = self.queue.remove(key);
        let parked = waiting.as_ref().is_some_and(|w| w.waker.is_some());
        self.parked -= usize::from(parked);
        match waiting.map(|waiting| (waiting.answer, waiting.ask.place)) {
            Some((Some(Ok(grant)), _)) => {
                // Nothing was sent: however late it is, the upstream is not to blame.
                let end = End::outcome(grant.at, now, Outcome::ignored());
                self.settle(grant.ticket, end, after);
            }
            Some((None, Some(place))) => self.gate.leave(place, now),
            _ => {}
        }
        self.pump(now, after);
    }
}

impl End {
    pub(super) fn outcome(started: Instant, now: Instant, outcome: Outcome) -> Self {
        Self {
            started,
            now,
            rtt: now.saturating_duration_since(started),
            how: How::Outcome(outcome),
        }
    }
}
