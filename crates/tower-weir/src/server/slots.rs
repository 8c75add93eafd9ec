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
    #[cfg(feature = "aimd")]
    found: Option<Limiter>,
}

/// What a running operation holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    weight: usize,
    #[cfg(feature = "aimd")]
    found: Option<<Limiter as Gate>::Ticket>,
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

impl Slots {
    #[cfg_attr(
        not(feature = "aimd"),
        allow(unused_variables, reason = "a law draws random numbers")
    )]
    pub(super) fn new(config: &AdmissionConfig, seed: u64, now: Instant) -> Self {
        Self {
            running: 0,
            #[cfg(feature = "aimd")]
            found: config.adaptive.as_ref().map(|law| {
                let config = LimiterConfig {
                    law: law.clone(),
                    custom: None,
                };
                Limiter::open(&config, &"".into(), seed, now)
            }),
        }
    }

    /// The weight of what runs.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    pub(super) fn limit(&self, config: &AdmissionConfig) -> usize {
        #[cfg(feature = "aimd")]
        if let Some(limit) = self.found.as_ref().and_then(Gate::limit) {
            return limit;
        }
        config.limits.throttle_at
    }

    #[cfg_attr(
        not(feature = "aimd"),
        allow(unused_variables, reason = "a law tells of its changes")
    )]
    pub(super) fn ask(
        &mut self,
        ask: Ask,
        config: &AdmissionConfig,
        events: &mut Events,
    ) -> Option<Slot> {
        let weight = ask.weight;
        #[cfg(feature = "aimd")]
        if let Some(found) = &mut self.found {
            let Answer::Go(slot) = found.ask(ask, events) else {
                return None;
            };
            self.running += weight;
            return Some(Slot {
                weight,
                found: Some(slot),
            });
        }
        self.take(weight, config)
    }

    /// A slot that is given without asking a law.
    #[inline]
    pub(super) fn take(&mut self, weight: usize, config: &AdmissionConfig) -> Option<Slot> {
        #[cfg(feature = "aimd")]
        if self.found.is_some() {
            return None;
        }
        let limit = config.limits.throttle_at;
        let alone = self.running == 0 && limit > 0;
        if !alone && !fits(self.running, weight, limit) {
            return None;
        }
        self.running += weight;
        Some(Slot {
            weight,
            #[cfg(feature = "aimd")]
            found: None,
        })
    }

    #[cfg_attr(
        not(feature = "aimd"),
        allow(unused_variables, reason = "a law learns from how operations end")
    )]
    #[inline]
    pub(super) fn settle(&mut self, slot: Slot, end: &End, events: &mut Events) {
        self.running -= slot.weight;
        #[cfg(feature = "aimd")]
        if let (Some(found), Some(slot)) = (&mut self.found, slot.found) {
            found.settle(slot, &of_the_server(*end), events);
        }
    }

    /// When time alone lets the first in line go.
    #[cfg_attr(
        not(feature = "aimd"),
        allow(unused_variables, reason = "a law spaces operations out")
    )]
    pub(super) fn next_event(&self, weight: usize, now: Instant) -> Option<Instant> {
        #[cfg(feature = "aimd")]
        return self.found.as_ref()?.next_event(weight, now);
        #[cfg(not(feature = "aimd"))]
        None
    }

    #[cfg_attr(
        not(feature = "aimd"),
        allow(unused_variables, reason = "a law has settings of its own")
    )]
    pub(super) fn reconfigure(
        &mut self,
        config: &AdmissionConfig,
        now: Instant,
        events: &mut Events,
    ) {
        #[cfg(feature = "aimd")]
        if let (Some(found), Some(law)) = (&mut self.found, &config.adaptive) {
            let config = LimiterConfig {
                law: law.clone(),
                custom: None,
            };
            found.reconfigure(&config, now, events);
        }
    }
}
