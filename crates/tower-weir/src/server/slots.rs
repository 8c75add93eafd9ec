use tokio::time::Instant;

use super::AdmissionConfig;
use crate::{
    admit::gate::{Answer, Ask, End},
    observe::Events,
};
#[cfg(feature = "aimd")]
use crate::{
    admit::gate::{Gate, How},
    aimd::{Limiter, LimiterConfig},
    outcome::{Outcome, Refusal, Verdict},
};

/// How many operations run at once: as many as the settings say, or as many as
/// a law finds out.
#[derive(Debug)]
pub(super) struct Slots {
    running: usize,
    /// As many as the settings say.
    limit: usize,
    #[cfg(feature = "aimd")]
    found: Option<Box<Found>>,
}

/// A law, and what it has given to those that run, by their places.
#[cfg(feature = "aimd")]
#[derive(Debug)]
struct Found {
    law: Limiter,
    given: Vec<Option<Given>>,
}

#[cfg(feature = "aimd")]
type Given = <Limiter as Gate>::Ticket;

#[cfg(feature = "aimd")]
impl Found {
    #[cold]
    fn keep(&mut self, place: usize, slot: Slot) {
        if self.given.len() <= place {
            self.given.resize(place + 1, None);
        }
        self.given[place] = slot.given;
    }
}

/// What an operation has that has its turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    #[cfg(feature = "aimd")]
    given: Option<Given>,
}

/// Whether there is room for more; a weight may be any number.
pub(super) fn fits(taken: usize, more: usize, limit: usize) -> bool {
    taken.checked_add(more).is_some_and(|sum| sum <= limit)
}

/// What an end says of this server: a handler's own 429 is about its caller, or
/// about another server.
#[cfg(feature = "aimd")]
fn of_the_server(mut end: End) -> End {
    if let How::Outcome(outcome) = &mut end.how
        && outcome.verdict == Verdict::Refused(Refusal::Throttled)
    {
        *outcome = Outcome::ignored();
    }
    end
}

#[cfg_attr(
    not(feature = "aimd"),
    allow(unused_variables, reason = "there may be a law, or none")
)]
impl Slots {
    pub(super) fn new(config: &AdmissionConfig, seed: u64, now: Instant) -> Self {
        Self {
            running: 0,
            limit: config.limits.throttle_at,
            #[cfg(feature = "aimd")]
            found: config.adaptive.as_ref().map(|law| {
                let config = LimiterConfig {
                    law: law.clone(),
                    custom: None,
                };
                Box::new(Found {
                    law: Limiter::open(&config, &"".into(), seed, now),
                    given: Vec::new(),
                })
            }),
        }
    }

    /// Whether a law wants to know of every operation how it ended.
    #[inline]
    pub(super) fn are_found(&self) -> bool {
        #[cfg(feature = "aimd")]
        return self.found.is_some();
        #[cfg(not(feature = "aimd"))]
        false
    }

    /// The weight of what runs.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    pub(super) fn limit(&self) -> usize {
        #[cfg(feature = "aimd")]
        if let Some(limit) = self.found.as_ref().and_then(|found| found.law.limit()) {
            return limit;
        }
        self.limit
    }

    /// A slot for an operation that has its turn.
    pub(super) fn ask(&mut self, ask: Ask, events: &mut Events) -> Option<Slot> {
        let weight = ask.weight;
        #[cfg(feature = "aimd")]
        if let Some(found) = &mut self.found {
            let Answer::Go(given) = found.law.ask(ask, events) else {
                return None;
            };
            self.running += weight;
            return Some(Slot { given: Some(given) });
        }
        self.take(weight)
    }

    /// A slot that is given without asking a law.
    #[inline]
    pub(super) fn take(&mut self, weight: usize) -> Option<Slot> {
        #[cfg(feature = "aimd")]
        if self.found.is_some() {
            return None;
        }
        let alone = self.running == 0 && self.limit > 0;
        if !fits(self.running, weight, self.limit) && !alone {
            return None;
        }
        self.running += weight;
        Some(Slot::default())
    }

    /// The operation at this place has the slot, until it settles.
    #[inline]
    pub(super) fn keep(&mut self, place: usize, slot: Slot) {
        #[cfg(feature = "aimd")]
        if let Some(found) = &mut self.found {
            found.keep(place, slot);
        }
    }

    /// An operation has ended, and there is no law.
    #[inline]
    pub(super) fn free(&mut self, weight: usize) {
        self.running -= weight;
    }

    /// An operation has ended; a law wants to know how.
    #[inline]
    pub(super) fn settle(
        &mut self,
        place: usize,
        weight: usize,
        end: impl FnOnce() -> End,
        events: &mut Events,
    ) {
        self.free(weight);
        #[cfg(feature = "aimd")]
        if let Some(found) = &mut self.found
            && let Some(given) = found.given.get_mut(place).and_then(Option::take)
        {
            found.law.settle(given, &of_the_server(end()), events);
        }
    }

    /// When time alone lets the first in line go.
    pub(super) fn next_event(&self, weight: usize, now: Instant) -> Option<Instant> {
        #[cfg(feature = "aimd")]
        return self.found.as_ref()?.law.next_event(weight, now);
        #[cfg(not(feature = "aimd"))]
        None
    }

    pub(super) fn reconfigure(
        &mut self,
        config: &AdmissionConfig,
        now: Instant,
        events: &mut Events,
    ) {
        self.limit = config.limits.throttle_at;
        #[cfg(feature = "aimd")]
        if let (Some(found), Some(law)) = (&mut self.found, &config.adaptive) {
            let config = LimiterConfig {
                law: law.clone(),
                custom: None,
            };
            found.law.reconfigure(&config, now, events);
        }
    }
}
