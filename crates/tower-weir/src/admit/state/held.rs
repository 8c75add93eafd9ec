//! Calls whose bodies are with their callers.

use std::time::Duration;

use tokio::time::Instant;

use super::State;
use crate::{
    admit::{
        entry::After,
        gate::{End, Gate},
        list::Key,
        permit::Ending,
    },
    deadline::far,
};

/// How long the first in line waits for slots that only bodies hold, and these have
/// been with their callers, where waiting on would be in vain.
const STALLED: Duration = Duration::from_secs(5);

/// A call whose headers were good and whose body is still with the caller.
pub(in crate::admit) struct Held<T> {
    pub(in crate::admit) until: Instant,
    ticket: T,
    end: End,
}

impl<G: Gate> State<G> {
    /// When the body that has been with its caller the longest gives its slot up to
    /// the first in line, before its time: if there are only such bodies, and its time
    /// is longer than the first may wait. The one who has the bodies may be the one who
    /// waits. One that has just begun is in nobody's way: where the line is long, its
    /// first has always waited long.
    pub(in crate::admit) fn relief(&self, now: Instant) -> Option<Instant> {
        if self.holds.len() < self.out || self.draining {
            return None;
        }
        let held = self.holds.get(self.holds.front(0)?)?;
        let first = self.queue.get(self.first()?)?;
        let at = far(first.ask.now.max(held.end.now), STALLED);
        let in_vain = at < first.until && first.until < held.until;
        let stalled = in_vain && self.gate.next_event(first.ask.weight, now).is_none();
        stalled.then_some(at)
    }

    /// How many responses' bodies are with their callers.
    pub(in crate::admit) fn bodies(&self) -> usize {
        let heads = self.heads.as_deref();
        self.holds.len() + heads.map_or(0, |heads| self.gate.bodies(heads))
    }

    /// How many calls that were admitted have no response yet.
    pub(in crate::admit) fn unanswered(&self) -> usize {
        self.out - self.bodies()
    }

    /// Keeps a call's slot with its body.
    pub(in crate::admit) fn hold(
        &mut self,
        ticket: G::Ticket,
        end: End,
        max_hold: Duration,
    ) -> Key {
        let hold = self.gate.hold(ticket);
        let until = far(end.now, hold.map_or(max_hold, |hold| hold.min(max_hold)));
        let held = Held { until, ticket, end };
        self.holds.insert_sorted(0, held, |held| held.until)
    }

    pub(in crate::admit) fn settle_held(
        &mut self,
        key: Key,
        now: Instant,
        ending: Ending,
        after: &mut After,
    ) {
        let Some(mut held) = self.holds.remove(key) else {
            return;
        };
        self.reclaim(now, after);
        held.end.now = now;
        if let Some(instead) = ending.instead {
            held.end.how = instead;
        }
        if ending.unary {
            held.end.rtt = now.saturating_duration_since(held.end.started);
        }
        self.settle(held.ticket, &held.end, after);
        self.pump(now, after);
    }

    /// Settles what has been held for too long: a body that nobody polls runs
    /// no timer, so those who want its slot look, and those whose call is about
    /// to tell the gate how much is in flight.
    #[inline]
    pub(in crate::admit) fn reclaim(&mut self, now: Instant, after: &mut After) {
        if self.holds.len() > 0 {
            self.reclaim_held(now, after);
        }
        if self.gate.overdue_at().is_some_and(|at| at <= now)
            && let Some(heads) = self.heads.clone()
        {
            for (ticket, end) in self.gate.overdue(&heads, now) {
                heads.take(G::place(ticket));
                self.settle(ticket, &end, after);
            }
        }
    }

    fn reclaim_held(&mut self, now: Instant, after: &mut After) {
        while let Some(key) = self.holds.front(0) {
            if self.holds.get(key).is_none_or(|held| held.until > now) {
                break;
            }
            self.release(key, now, after);
        }
    }

    /// Ends a held call with what its head promised.
    pub(super) fn release(&mut self, key: Key, now: Instant, after: &mut After) {
        if let Some(mut held) = self.holds.remove(key) {
            held.end.now = now;
            self.settle(held.ticket, &held.end, after);
        }
    }
}
