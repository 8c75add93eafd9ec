use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    BoxError,
    admit::gate::{Answer, Ask, End, Gate, sealed::Sealed},
    aimd::{Limiter, LimiterConfig},
    circuit_breaker::{Breaker, GateConfig},
    observe::Events,
};

/// The gates of the whole stack, behind one admission.
///
/// The breaker is asked first, so that an open circuit refuses at once and no
/// call takes a slot only to be refused; and it is asked when the slot is
/// granted, since it may have opened while the call waited. A probe needs no
/// free slot: what fills the slots of an upstream that was down are calls that
/// hang, and the probe is to find out whether they still must.
#[derive(Debug)]
#[repr(C)]
pub struct Joined {
    pub(super) breaker: Option<Breaker>,
    pub(super) limiter: Option<Limiter>,
}

/// What the joined gates are made from.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct JoinedConfig {
    pub(crate) breaker: GateConfig,
    pub(super) breaker_enabled: bool,
    pub(crate) limiter: LimiterConfig,
    pub(super) limiter_enabled: bool,
}

/// What a call carries: its ticket for each gate there is.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Tickets {
    breaker: Option<<Breaker as Gate>::Ticket>,
    slot: Option<<Limiter as Gate>::Ticket>,
}

impl Sealed for Joined {}

impl Gate for Joined {
    type Config = JoinedConfig;
    type Ticket = Tickets;

    fn open(config: &JoinedConfig, host: &Arc<str>, seed: u64, now: Instant) -> Self {
        Self {
            breaker: config
                .breaker_enabled
                .then(|| Breaker::open(&config.breaker, host, seed, now)),
            // The two must not draw the same numbers.
            limiter: config
                .limiter_enabled
                .then(|| Limiter::open(&config.limiter, host, !seed, now)),
        }
    }

    fn ask(&mut self, ask: Ask, events: &mut Events) -> Answer<Tickets> {
        let mut probe = false;
        if let Some(breaker) = &self.breaker {
            if let Some(refused) = breaker.refuses(ask.now) {
                return Answer::Refuse(refused);
            }
            if breaker.is_shut(ask.now) {
                return Answer::Wait;
            }
            probe = breaker.wants_probe(ask.now);
        }
        let slot = match &mut self.limiter {
            Some(limiter) if probe => Some(limiter.grant(ask)),
            Some(limiter) => match limiter.ask(ask, events) {
                Answer::Go(slot) => Some(slot),
                Answer::Wait => return Answer::Wait,
                Answer::Refuse(refused) => return Answer::Refuse(refused),
            },
            None => None,
        };
        let breaker = match &mut self.breaker {
            Some(breaker) => match breaker.ask(ask, events) {
                Answer::Go(ticket) => Some(ticket),
                Answer::Wait | Answer::Refuse(_) => None,
            },
            None => None,
        };
        Answer::Go(Tickets { breaker, slot })
    }

    #[inline]
    fn admit_at_once(&mut self, weight: usize) -> Option<Tickets> {
        // The breaker takes nothing for it: the limiter may still say no.
        let breaker = match &mut self.breaker {
            Some(breaker) => Some(breaker.admit_at_once(weight)?),
            None => None,
        };
        let slot = match &mut self.limiter {
            Some(limiter) => Some(limiter.admit_at_once(weight)?),
            None => None,
        };
        Some(Tickets { breaker, slot })
    }

    fn refuses(&self, now: Instant) -> Option<BoxError> {
        self.breaker.as_ref()?.refuses(now)
    }

    fn is_shut(&self, now: Instant) -> bool {
        self.breaker
            .as_ref()
            .is_some_and(|breaker| breaker.is_shut(now))
    }

    #[inline]
    fn settle(&mut self, tickets: Tickets, end: &End, events: &mut Events) {
        if let (Some(breaker), Some(ticket)) = (&mut self.breaker, tickets.breaker) {
            // The limiter learns what round trips take; once is enough.
            if self.limiter.is_none() {
                breaker.learn(end);
            }
            breaker.decide(ticket, end, events);
        }
        if let (Some(limiter), Some(slot)) = (&mut self.limiter, tickets.slot) {
            limiter.settle(slot, end, events);
        }
    }

    fn next_event(&self, weight: usize, now: Instant) -> Option<Instant> {
        match (&self.breaker, &self.limiter) {
            (Some(breaker), _) if breaker.is_shut(now) || breaker.wants_probe(now) => {
                breaker.next_event(weight, now)
            }
            (_, Some(limiter)) => limiter.next_event(weight, now),
            (_, None) => Some(now),
        }
    }

    fn reconfigure(&mut self, config: &JoinedConfig, now: Instant, events: &mut Events) {
        if let Some(breaker) = &mut self.breaker {
            breaker.reconfigure(&config.breaker, now, events);
        }
        if let Some(limiter) = &mut self.limiter {
            limiter.reconfigure(&config.limiter, now, events);
        }
    }

    fn closed_until(&self, now: Instant) -> Option<Instant> {
        // A probe goes ahead of a pause.
        if self.breaker.as_ref().is_some_and(|b| b.is_shut(now)) {
            return None;
        }
        self.limiter.as_ref()?.closed_until(now)
    }

    fn limit(&self) -> Option<usize> {
        self.limiter.as_ref()?.limit()
    }

    fn srtt(&self) -> Option<Duration> {
        match (&self.limiter, &self.breaker) {
            (Some(limiter), _) => limiter.srtt(),
            (None, Some(breaker)) => breaker.srtt(),
            (None, None) => None,
        }
    }

    fn hold(&self, tickets: Tickets) -> Option<Duration> {
        self.breaker.as_ref()?.hold(tickets.breaker?)
    }
}
