//! When time alone changes something for those who wait, and who looks then.
//!
//! One timer would do for a whole queue, and one of those who wait keeps it. But
//! a task that was woken need not poll the call that it was woken for: it may be
//! busy with another branch of its `select!`. So a second one keeps a timer too,
//! a little later.

use std::{task::Waker, time::Duration};

use tokio::time::Instant;

use super::{
    entry::After,
    gate::Gate,
    list::Key,
    state::{State, Waiting},
};
use crate::deadline::far;

/// How much later than the first the second looks: longer than a task usually
/// takes from being woken to being polled, so that it seldom finds anything to do.
const GRACE: Duration = Duration::from_millis(10);

/// Who keeps a timer, and the moment it is set to.
#[derive(Default)]
pub(super) struct Timers {
    first: Option<(Key, Instant)>,
    second: Option<(Key, Instant)>,
}

impl<G: Gate> State<G> {
    fn is_shut(&self, now: Instant) -> bool {
        !self.is_draining() && self.gate.is_shut(now)
    }

    /// Wakes those who wait in `poll_ready` if they need wait no longer, or
    /// their timers are set to what will not come then.
    #[inline]
    pub(super) fn stir(&mut self, after: &mut After) {
        if !self.pending.is_empty() {
            self.stir_pending(after);
        }
    }

    #[cold]
    fn stir_pending(&mut self, after: &mut After) {
        let now = Instant::now();
        if !self.is_shut(now) || !self.pending.expects(self.event(1, now)) {
            after.wake.extend(self.pending.wake());
        }
    }

    /// A place among those who wait in `poll_ready`, if they must.
    pub(super) fn pend(
        &mut self,
        place: Option<usize>,
        waker: &Waker,
        now: Instant,
        after: &mut After,
    ) -> Option<(usize, Option<Instant>)> {
        self.reclaim(now, after);
        self.pump(now, after);
        if !self.is_shut(now) {
            if let Some(place) = place {
                after.discard(self.pending.leave(place));
            }
            return None;
        }
        let until = self.event(1, now);
        self.crowd();
        Some((self.pending.park(place, waker, until, after), until))
    }

    pub(super) fn unpend(&mut self, place: usize) -> Option<Waker> {
        self.pending.leave(place)
    }

    /// Unless timers are set for the next event, or somebody has been woken who
    /// will set them, wakes the first in line. One who was never polled can set
    /// no timer: then it is the next.
    pub(super) fn alert(&mut self, now: Instant, after: &mut After) {
        // A caller may make all its calls before it polls one: those have no
        // task yet, and each call that comes would search them all.
        if self.parked == 0 {
            return;
        }
        let Some(event) = self.next_event(now) else {
            return;
        };
        if self.keeper(self.timers.first, now, event).is_none() {
            let second = self.timers.second.map(|(key, _)| key);
            // Were it the second's keeper, somebody else had to be woken for that.
            let key = self.parked_but(second).or_else(|| self.parked_but(None));
            self.timers.first = key.map(|key| (key, event));
            self.wake_keeper(key, after);
        }
        let late = far(event, GRACE);
        if self.parked > 0 && self.second(now, late).is_none() {
            let first = self.timers.first.map(|(key, _)| key);
            let key = self.parked_but(first);
            self.timers.second = key.map(|key| (key, late));
            self.wake_keeper(key, after);
        }
    }

    /// The first in line that has a task to wake, but for this one.
    fn parked_but(&self, not: Option<Key>) -> Option<Key> {
        let other = |key, waiting: &Waiting<_>| waiting.waker.is_some() && Some(key) != not;
        self.queue.find(other)
    }

    fn wake_keeper(&mut self, keeper: Option<Key>, after: &mut After) {
        if let Some(key) = keeper {
            self.wake(key, after);
        }
    }

    /// Registers a waiter's task; returns when it should look again by itself,
    /// which only two in the queue need do.
    pub(super) fn park(
        &mut self,
        key: Key,
        waker: &Waker,
        now: Instant,
        after: &mut After,
    ) -> Option<Instant> {
        if let Some(waiting) = self.queue.get_mut(key) {
            self.parked += usize::from(waiting.waker.is_none());
            after.park(&mut waiting.waker, waker);
        }
        let event = self.next_event(now)?;
        let late = far(event, GRACE);
        if !self.is_kept(self.keeper(self.timers.first, now, event), key) {
            self.timers.first = Some((key, event));
            return Some(event);
        }
        if !self.is_kept(self.second(now, late), key) {
            self.timers.second = Some((key, late));
            return Some(late);
        }
        None
    }

    /// Whether another than `key` keeps a timer. One that was woken and is not
    /// polled may never be: its task can be busy with the call that is.
    fn is_kept(&self, keeper: Option<Key>, key: Key) -> bool {
        keeper.is_some_and(|other| {
            other != key && self.queue.get(other).is_some_and(|w| w.waker.is_some())
        })
    }

    /// Who waits with a timer that goes off in time for `event`.
    fn keeper(&self, timer: Option<(Key, Instant)>, now: Instant, event: Instant) -> Option<Key> {
        let (key, at) = timer?;
        let waits = self.queue.get(key)?.answer.is_none();
        (waits && now < at && at <= event).then_some(key)
    }

    /// The same of the second timer, which the first one's keeper cannot have.
    fn second(&self, now: Instant, late: Instant) -> Option<Key> {
        let first = self.timers.first.map(|(key, _)| key);
        let second = self.keeper(self.timers.second, now, late);
        second.filter(|key| Some(*key) != first)
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
        let bodies = self.held_until().into_iter().chain(self.relief(now));
        free.into_iter().chain(bodies).min()
    }

    /// When the time of the call is up that has been held the longest, or a moment
    /// before that.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let held = self.holds.front(0).and_then(|key| self.holds.get(key));
        let until = held.map(|held| held.until);
        until.into_iter().chain(self.gate.overdue_at()).min()
    }
}
