use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    task::Waker,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    gate::{End, Gate, HeadEnd, How},
    heads::Heads,
    knobs::Knobs,
    list::Key,
    permit::Ending,
    state::State,
};
use crate::{
    BoxError,
    error::ShuttingDown,
    observe::{Event, Events, Seam},
    outcome::Outcome,
    panics::for_each,
    shutdown::Member,
    sync::{Mutex, MutexGuard},
};
#[cfg(feature = "weir")]
use crate::{retry::budget::HostBudget, trust::Task};

/// One upstream: its gate, those who wait for it, and the responses that still
/// hold a slot of it.
// In this order what a call touches lies together.
#[repr(C)]
pub(crate) struct Entry<G: Gate> {
    knobs: Arc<Knobs>,
    heads: Option<Arc<Heads>>,
    #[cfg(feature = "weir")]
    budget: Option<HostBudget>,
    state: Mutex<State<G>>,
    host: Arc<str>,
    seam: Seam,
    /// Told when the last call of a host that is drained has ended.
    drained: Arc<Notify>,
}

/// What is done once the lock is released: tasks to wake, events to tell.
#[derive(Default)]
pub(super) struct After {
    pub(super) wake: Vec<Waker>,
    /// Wakers to drop. The last one of a task may take along what that holds, which
    /// may be a call to the same host.
    gone: Vec<Waker>,
    pub(super) events: Events,
}

impl After {
    #[inline]
    fn is_nothing(&self) -> bool {
        self.wake.capacity() == 0 && self.gone.capacity() == 0 && self.events.is_nothing()
    }

    /// Has this task be woken from there, and no longer the one that was before.
    pub(super) fn park(&mut self, place: &mut Option<Waker>, waker: &Waker) {
        let kept = place.as_ref();
        if !kept.is_some_and(|kept| kept.will_wake(waker)) {
            self.discard(place.replace(waker.clone()));
        }
    }

    pub(super) fn discard(&mut self, waker: Option<Waker>) {
        self.gone.extend(waker);
    }

    #[cold]
    fn tell(self, host: &str, seam: &Seam) {
        // One that panics keeps no other from hearing of its turn.
        let panicked = for_each(self.wake, Waker::wake);
        self.events.tell(host, seam);
        panicked.resume();
    }
}

impl<G: Gate> Entry<G> {
    pub(crate) fn new(
        host: Arc<str>,
        gate: G,
        seam: Seam,
        drained: Arc<Notify>,
        knobs: Arc<Knobs>,
        draining: bool,
    ) -> Self {
        let heads = gate.since().map(|since| Arc::new(Heads::new(since)));
        Self {
            knobs,
            #[cfg(feature = "weir")]
            budget: None,
            state: Mutex::new(State::new(gate, heads.clone(), draining)),
            heads,
            host,
            seam,
            drained,
        }
    }

    /// The same with the host's retry budget, where the retry layer above leaves that
    /// to the admission.
    #[cfg(feature = "weir")]
    pub(super) fn with_budget(self, budget: Option<HostBudget>) -> Self {
        Self { budget, ..self }
    }

    /// A call has come, for the time of which the host's budget is kept.
    #[inline]
    pub(super) fn keep_budget(&self) {
        // The budget is beside the lock, which others may be writing.
        #[cfg(feature = "weir")]
        if Task::is_keeping()
            && let Some(budget) = &self.budget
        {
            budget.keep();
        }
    }

    /// Tells the host's budget of a call that succeeded.
    #[inline]
    pub(super) fn deposit(&self, now: Instant, outcome: &Outcome) {
        #[cfg(feature = "weir")]
        if let Some(budget) = &self.budget {
            budget.deposit(now, outcome);
        }
        #[cfg(not(feature = "weir"))]
        let _ = (now, outcome);
    }

    pub(crate) fn host(&self) -> &Arc<str> {
        &self.host
    }

    #[inline]
    pub(super) fn knobs(&self) -> &Knobs {
        &self.knobs
    }

    /// Reads the state, and tells what comes of it after the lock is released.
    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State<G>, &mut After) -> R) -> R {
        self.run(self.lock(), f)
    }

    /// Lets a newcomer go that nothing is in the way of, if its gate will `admit` it.
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn admit_at_once(
        &self,
        admit: impl FnOnce(&mut G) -> Option<G::Ticket>,
    ) -> Option<G::Ticket> {
        self.lock().admit_at_once(admit)
    }

    /// Lets a newcomer go that nothing is in the way of, if its gate will `admit`
    /// it. Another that `refuse` has an answer for gets that; it changes nothing that
    /// anybody is to be told of. Of any other, what `in_full` makes.
    #[inline]
    pub(super) fn enter<T, R>(
        &self,
        admit: impl FnOnce(&mut G) -> Option<G::Ticket>,
        refuse: impl FnOnce(&mut State<G>) -> Result<T, R>,
        in_full: impl FnOnce(T, &mut State<G>, &mut After) -> R,
    ) -> Result<G::Ticket, R> {
        let mut state = self.lock();
        if let Some(ticket) = state.admit_at_once(admit) {
            return Ok(ticket);
        }
        Err(match refuse(&mut state) {
            Ok(asked) => self.run(state, |state, after| in_full(asked, state, after)),
            Err(refused) => refused,
        })
    }

    #[inline]
    fn run<R>(
        &self,
        state: MutexGuard<'_, State<G>>,
        f: impl FnOnce(&mut State<G>, &mut After) -> R,
    ) -> R {
        let mut run = Run {
            entry: self,
            after: After::default(),
        };
        // Behind the run: should a user's law panic, the lock goes first.
        let mut state = state;
        let result = f(&mut state, &mut run.after);
        let drained = state.looked_at(&mut run.after);
        drop(state);
        if drained {
            self.drained.notify_waiters();
        }
        // Nearly always, nothing came of it.
        if run.after.is_nothing() {
            // Saves looking through what is empty, to drop it.
            mem::forget(run);
        } else {
            run.tell();
        }
        result
    }

    /// Tells that a call was refused.
    pub(super) fn refused(&self, error: &BoxError) {
        if !self.seam.is_heard() {
            return;
        }
        self.seam.tell(&self.host, Event::refusal(error));
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, State<G>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a call. It is `settled` from when its own end is told: a law that panics
    /// over what was reclaimed first has not seen that.
    #[inline]
    pub(crate) fn settle(&self, ticket: G::Ticket, end: &End, settled: impl FnOnce()) {
        self.with(|state, after| {
            state.reclaim(end.now, after);
            settled();
            state.settle(ticket, end, after);
            state.pump(end.now, after);
        });
    }

    /// Keeps the call's slot until its body ends, at most for `max_hold`. Its place
    /// is `held` from when it has one: what follows may be a law that panics.
    pub(crate) fn hold(
        &self,
        ticket: G::Ticket,
        end: End,
        max_hold: Duration,
        held: impl FnOnce(Key),
    ) {
        let draining = self.with(|state, after| {
            state.reclaim(end.now, after);
            held(state.hold(ticket, end, max_hold));
            // Until now, nobody in the queue knew of the moment at which it is free.
            state.pump(end.now, after);
            state.is_draining()
        });
        if draining {
            // Whoever drains must learn of the moment at which its time is up.
            self.drained.notify_waiters();
        }
    }

    /// The head of a call has gone out: its slot is kept until its body ends, as
    /// long as its gate lets it.
    #[inline]
    pub(crate) fn head(&self, ticket: G::Ticket, at: Instant) {
        if let Some(heads) = &self.heads {
            heads.set(G::place(ticket), at);
        }
    }

    /// Ends such a call, unless its time was up and somebody else did. It has ended
    /// with its head if it was there at once.
    pub(crate) fn settle_head(&self, ticket: G::Ticket, at: Instant, ending: Ending) {
        self.with(|state, after| {
            // Only those who wait want to know what time it is.
            let at_once = ending.at_once && state.queue().len() == 0;
            let end = HeadEnd {
                now: if at_once { at } else { Instant::now() },
                at_once,
                unary: ending.unary,
                how: ending.instead.unwrap_or(How::Outcome(Outcome::success())),
            };
            state.reclaim(end.now, after);
            state.settle_head(ticket, &end, after);
            state.pump(end.now, after);
        });
    }

    /// Ends such a call with its head, if there is nobody to be told of it, and nothing
    /// to be seen to besides.
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn settle_quietly(&self, ticket: G::Ticket, at: Instant) -> bool {
        let heads = self.heads.as_deref();
        heads.is_some_and(|heads| self.lock().settle_quietly(ticket, heads, at))
    }

    /// Settles what has been held for too long. Returns when the next will be.
    pub(crate) fn reclaim(&self, now: Instant) -> Option<Instant> {
        let next = self.lock().held_until();
        if next.is_none_or(|next| next > now) {
            return next;
        }
        self.with(|state, after| {
            state.reclaim(now, after);
            state.pump(now, after);
            state.held_until()
        })
    }

    /// Settles a held call, unless its time was up and somebody else did.
    pub(crate) fn settle_held(&self, key: Key, now: Instant, ending: Ending) {
        self.with(|state, after| state.settle_held(key, now, ending, after));
    }

    pub(crate) fn inspect<R>(&self, f: impl FnOnce(&mut G, usize) -> R) -> R {
        let mut state = self.lock();
        let waiting = state.queue().len();
        f(state.gate_mut(), waiting)
    }

    /// When a call was last refused or settled.
    pub(super) fn last_use(&self) -> Option<Instant> {
        self.lock().last_use()
    }

    /// Changes the gate from outside, and lets those go whom that admits.
    pub(crate) fn change(&self, now: Instant, f: impl FnOnce(&mut G, &mut Events)) {
        self.with(|state, after| {
            f(state.gate_mut(), &mut after.events);
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
        self.with(|state, after| state.pend(place, waker, now, after))
    }

    /// Wakes all who wait in `poll_ready`.
    #[cfg(feature = "config")]
    pub(super) fn rouse(&self) {
        self.with(|state, after| after.wake.extend(state.pending.wake()));
    }

    /// Has all who wait for their turn look how long they may.
    #[cfg(feature = "config")]
    pub(super) fn remind(&self) {
        self.with(State::wake_all);
    }

    pub(super) fn unpend(&self, place: usize) {
        let waker = self.lock().unpend(place);
        drop(waker);
    }

    #[cfg(all(test, feature = "weir"))]
    pub(super) fn is_locked(&self) -> bool {
        self.state.try_lock().is_err()
    }
}

/// What the state is looked at for. If it ends in a panic, those who wait are seen
/// to all the same: nobody else would wake them.
struct Run<'a, G: Gate> {
    entry: &'a Entry<G>,
    after: After,
}

impl<G: Gate> Run<'_, G> {
    #[cold]
    fn tell(mut self) {
        let (entry, after) = (self.entry, mem::take(&mut self.after));
        mem::forget(self);
        after.tell(&entry.host, &entry.seam);
    }
}

impl<G: Gate> Drop for Run<'_, G> {
    #[cold]
    fn drop(&mut self) {
        let (entry, mut after) = (self.entry, mem::take(&mut self.after));
        let look = || {
            let mut state = entry.lock();
            state.pump(Instant::now(), &mut after);
            state.looked_at(&mut after)
        };
        // What panics once more has its panic already.
        if let Ok(true) = catch_unwind(AssertUnwindSafe(look)) {
            entry.drained.notify_waiters();
        }
        let tell = || after.tell(&entry.host, &entry.seam);
        let _ = catch_unwind(AssertUnwindSafe(tell));
    }
}

impl<G: Gate> Member for Entry<G> {
    fn close(&self) -> usize {
        let refusal = || ShuttingDown::unsent(self.host.clone()).into();
        self.with(|state, after| state.close(Instant::now(), refusal, after))
    }

    fn is_quiet(&self) -> bool {
        self.lock().is_empty()
    }

    fn reclaim(&self, now: Instant) -> Option<Instant> {
        Self::reclaim(self, now)
    }

    fn bodies(&self) -> usize {
        self.lock().bodies()
    }

    fn unanswered(&self) -> usize {
        self.lock().unanswered()
    }
}
