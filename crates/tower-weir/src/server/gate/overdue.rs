//! Which bodies have been with their callers for too long.

use tokio::time::Instant;

use super::ServerGate;
use crate::{
    admit::{
        Heads, Key,
        gate::{End, How},
    },
    deadline::far,
    outcome::Outcome,
};

/// All are looked at so often at most in the time that a body may be held. The work
/// for one of them does not grow with their number so.
const LOOKS: u32 = 8;

/// Those whose time is up before all are looked at again.
#[derive(Debug, Default)]
pub(super) struct Soon {
    /// The last first.
    pub(super) keys: Vec<(Instant, Key)>,
    /// When that is.
    pub(super) again: Option<Instant>,
}

impl ServerGate {
    /// Those whose time is up, and how they end; sees to it that the others are found
    /// when it is.
    #[cold]
    pub(super) fn find_overdue(&mut self, heads: &Heads, now: Instant) -> Vec<(Key, End)> {
        let overdue = match self.soon.again {
            Some(again) if now < again => self.next_overdue(heads, now),
            _ => self.look_at_all(heads, now),
        };
        let next = self.soon.keys.last().map(|(at, _)| *at);
        self.due = next.or(self.soon.again);
        overdue
    }

    fn next_overdue(&mut self, heads: &Heads, now: Instant) -> Vec<(Key, End)> {
        let mut overdue = Vec::new();
        while let Some((_, key)) = self.soon.keys.pop_if(|(at, _)| *at <= now) {
            // One that had no head then has its time from a later moment on, and is
            // found again.
            let head = self.pending.get(key).and_then(|_| heads.get(key.place()));
            let until = head.map(|head| far(self.since.moment(head), self.config.max_hold));
            if until.is_some_and(|until| until <= now) {
                overdue.extend(self.end_of(key, head, now));
            }
        }
        overdue
    }

    fn look_at_all(&mut self, heads: &Heads, now: Instant) -> Vec<(Key, End)> {
        let hold = self.config.max_hold;
        let horizon = far(now, hold / LOOKS);
        let (mut overdue, mut again) = (Vec::new(), None::<Instant>);
        self.soon.keys.clear();
        for (key, operation) in self.pending.iter().filter(|(_, it)| it.runs) {
            let mut until = far(operation.turn, hold);
            if until <= horizon {
                let head = heads.get(key.place());
                match head {
                    Some(head) => until = far(self.since.moment(head), hold),
                    // One that has none yet has all the time from now on.
                    None if until <= now => until = far(now, hold),
                    None => {}
                }
                if until <= now {
                    overdue.extend(self.end_of(key, head, now));
                    continue;
                }
            }
            if until <= horizon {
                self.soon.keys.push((until, key));
            } else {
                again = Some(again.map_or(until, |again| again.min(until)));
            }
        }
        self.soon.keys.sort_unstable_by_key(|(at, _)| *at);
        self.soon.keys.reverse();
        // Nor is any later that begins from now on.
        self.soon.again = again.or((!self.soon.keys.is_empty()).then(|| far(now, hold)));
        overdue
    }

    /// A success, as its head promised.
    fn end_of(&self, key: Key, head: Option<u64>, now: Instant) -> Option<(Key, End)> {
        let began = self.pending.get(key)?.turn;
        let how = How::Outcome(Outcome::success());
        let end = End::new(Some(began), self.since.moment(head?), how);
        Some((key, End { now, ..end }))
    }
}
