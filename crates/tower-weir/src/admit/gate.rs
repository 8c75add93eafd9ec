#[cfg(test)]
mod tests;

use std::{hash::Hasher, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    heads::{Heads, Since},
    list::Key,
    priority::CLASSES,
};
use crate::{BoxError, hosts::Fnv, observe::Events, outcome::Outcome};

/// What stands between a call and its upstream: a limiter, a breaker, or both.
///
/// A gate is pure. It is asked under the lock of its host's entry, with the
/// time as an argument, and knows nothing of tasks, wakers and timers: those
/// belong to the entry.
///
/// The trait is sealed: it appears in the types of this crate's services and
/// is not meant to be implemented elsewhere.
pub trait Gate: Send + sealed::Sealed + 'static {
    /// What the gate is made from.
    #[doc(hidden)]
    type Config: Clone + Send + Sync + 'static;
    /// What an admitted call carries until it settles.
    #[doc(hidden)]
    type Ticket: Copy + Send + 'static;

    #[doc(hidden)]
    fn open(config: &Self::Config, host: &Arc<str>, seed: u64, now: Instant) -> Self;

    /// May this call go now? It is the first in line.
    #[doc(hidden)]
    fn ask(&mut self, ask: Ask, events: &mut Events) -> Answer<Self::Ticket>;

    /// May a newcomer go at once, whatever the time is? It is asked while nobody
    /// waits. `None` does not refuse it: then it asks in full.
    #[doc(hidden)]
    #[inline]
    fn admit_at_once(&mut self, weight: usize) -> Option<Self::Ticket> {
        let _ = weight;
        None
    }

    /// May this newcomer go at once? The same for gates that want to know more of
    /// it.
    #[doc(hidden)]
    #[inline]
    fn admit(&mut self, ask: &Ask) -> Option<Self::Ticket> {
        let _ = ask;
        None
    }

    /// Would a newcomer be refused outright? Takes nothing. It is asked before
    /// a call is queued behind others.
    #[doc(hidden)]
    fn refuses(&self, now: Instant) -> Option<BoxError>;

    /// Is there a circuit that lets no call through now?
    #[doc(hidden)]
    fn is_shut(&self, now: Instant) -> bool;

    /// A call has ended.
    #[doc(hidden)]
    fn settle(&mut self, ticket: Self::Ticket, end: &End, events: &mut Events);

    /// The next moment at which time alone may let the first in line, of this
    /// weight, go.
    #[doc(hidden)]
    fn next_event(&self, weight: usize, now: Instant) -> Option<Instant>;

    /// The settings have changed.
    #[doc(hidden)]
    fn reconfigure(&mut self, config: &Self::Config, now: Instant, events: &mut Events);

    /// Until when nobody will be admitted, whatever ends meanwhile.
    #[doc(hidden)]
    fn closed_until(&self, now: Instant) -> Option<Instant>;

    /// The concurrency limit, if the gate has one.
    #[doc(hidden)]
    fn limit(&self) -> Option<usize>;

    /// A typical round trip, once one is known.
    #[doc(hidden)]
    fn srtt(&self) -> Option<Duration>;

    /// How long after good headers a call of this ticket is taken as ended,
    /// where that is less than the layer's `max_hold`.
    #[doc(hidden)]
    fn hold(&self, ticket: Self::Ticket) -> Option<Duration>;

    /// The moment that it counts from, for gates that find in [`Heads`] what is held
    /// for too long: so do those.
    #[doc(hidden)]
    fn since(&self) -> Option<Since> {
        None
    }

    /// Where the moment of a call's head is.
    #[doc(hidden)]
    fn place(ticket: Self::Ticket) -> usize {
        let _ = ticket;
        0
    }

    /// A call has ended whose head went out that way. Says whether it had not
    /// ended before.
    #[doc(hidden)]
    fn settle_head(
        &mut self,
        ticket: Self::Ticket,
        heads: &Heads,
        end: &HeadEnd,
        events: &mut Events,
    ) -> bool {
        let _ = (ticket, heads, end, events);
        false
    }

    /// The same of one that was a success and has ended with its head, while nobody
    /// waits. `None` if there is more to it than that, and nothing was done.
    #[doc(hidden)]
    #[inline]
    fn settle_quietly(
        &mut self,
        ticket: Self::Ticket,
        heads: &Heads,
        head: Instant,
    ) -> Option<bool> {
        let _ = (ticket, heads, head);
        None
    }

    /// A moment before which no such call is held for too long.
    #[doc(hidden)]
    fn overdue_at(&self) -> Option<Instant> {
        None
    }

    /// The calls that are, and how they end.
    #[doc(hidden)]
    fn overdue(&mut self, heads: &Heads, now: Instant) -> Vec<(Self::Ticket, End)> {
        let _ = (heads, now);
        Vec::new()
    }

    /// How many such calls there are.
    #[doc(hidden)]
    fn bodies(&self, heads: &Heads) -> usize {
        let _ = heads;
        0
    }

    /// How many lanes the calls wait in. The last goes first.
    #[doc(hidden)]
    fn lanes(&self) -> usize {
        CLASSES
    }

    /// Whether a lane has to wait for itself, whatever room there is for
    /// others: then it is nobody's turn there, and nobody is passed over.
    #[doc(hidden)]
    fn is_blocked(&self, lane: usize) -> bool {
        let _ = lane;
        false
    }

    /// Is a newcomer refused for what it is, before its turn is thought of?
    #[doc(hidden)]
    fn rejects(&mut self, ask: &Ask, events: &mut Events) -> Option<BoxError> {
        let _ = (ask, events);
        None
    }

    /// A newcomer has to wait. The gate may keep a place for it, by which it
    /// knows the call again, and bound its patience.
    #[doc(hidden)]
    fn queue(&mut self, ask: &Ask, events: &mut Events) -> Queued {
        let _ = (ask, events);
        Queued::default()
    }

    /// A call leaves the place that was kept for it, and was not admitted.
    #[doc(hidden)]
    fn leave(&mut self, place: Key, now: Instant) {
        let _ = (place, now);
    }

    /// What a call is told that has waited for too long, where the gate has its
    /// own words for that. The call has not left its place yet.
    #[doc(hidden)]
    fn lose_patience(&mut self, place: Key, now: Instant) -> Option<BoxError> {
        let _ = (place, now);
        None
    }
}

pub(crate) mod sealed {
    /// Keeps [`Gate`](super::Gate) and [`Exchange`](crate::admit::Exchange)
    /// from being implemented elsewhere.
    pub trait Sealed {}
}

/// What a gate is told of the call that asks.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub now: Instant,
    /// How many slots it wants.
    pub weight: usize,
    /// Whether the limit made somebody wait: the call itself, or one behind it.
    pub crowded: bool,
    pub load: Load,
    /// The place that the gate has kept for it while it waited.
    pub place: Option<Key>,
}

/// What a call brings besides its weight.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// The lane it waits in, if it has to.
    pub lane: usize,
    /// How large its body is said to be.
    pub bytes: u64,
    /// Whether it makes the upstream's storage emptier.
    pub frees: bool,
}

/// What a gate says to a call that has to wait.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Queued {
    pub place: Option<Key>,
    /// Until when at most.
    pub until: Option<Instant>,
}

/// What a gate answers.
#[doc(hidden)]
#[derive(Debug)]
pub enum Answer<T> {
    Go(T),
    Wait,
    Refuse(BoxError),
}

/// How a call ended.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// When it was sent; one that never was, when it was admitted.
    pub started: Instant,
    /// When it ended.
    pub now: Instant,
    /// From then to its response's headers, or to its end.
    pub rtt: Duration,
    pub how: How,
}

impl End {
    /// Of a call that was sent when it `started`, if it was.
    #[inline]
    pub(crate) fn new(started: Option<Instant>, now: Instant, how: How) -> Self {
        let started = started.unwrap_or(now);
        Self {
            started,
            now,
            rtt: now.saturating_duration_since(started),
            how,
        }
    }
}

/// How a call ended whose head's moment is among the [`Heads`].
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct HeadEnd {
    /// When it ended.
    pub now: Instant,
    /// Whether that is the moment of its head.
    pub at_once: bool,
    /// Whether its round trip went on until its end.
    pub unary: bool,
    pub how: How,
}

#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// It brought a result.
    Outcome(Outcome),
    /// Its caller went away.
    Cancelled,
    /// The inner service panicked.
    Panicked,
}

/// A gate's seed: each host's own, drawn from the layer's.
pub(crate) fn host_seed(seed: u64, host: &Arc<str>) -> u64 {
    let mut hash = Fnv::seeded(seed);
    hash.write(host.as_bytes());
    hash.finish()
}
