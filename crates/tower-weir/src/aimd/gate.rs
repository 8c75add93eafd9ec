use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    LawConfig,
    law::{Aimd, Change, Decision, LimitLaw, Sample},
};
use crate::{
    BoxError,
    admit::gate::{Answer, Ask, End, Gate, How, sealed::Sealed},
    deadline::far,
    observe::{Event, Events},
    outcome::{Outcome, Refusal, Verdict},
};

/// The gate of [`AimdConcurrencyLayer`](super::AimdConcurrencyLayer): the slots
/// of one host, and the law that says how many there are.
///
/// What every call touches comes first, so that it lies together.
#[derive(Debug)]
#[repr(C)]
pub struct Limiter {
    in_flight: usize,
    /// How many slots there are for calls that need not look at the time: none
    /// while slots cool, or a pause or a gap between calls may be on.
    at_once: usize,
    law: Law,
    /// When each cooling slot is free again, soonest first.
    cooling: BinaryHeap<Reverse<Instant>>,
    paused_until: Option<Instant>,
    last_start: Option<Instant>,
    /// Whether the host has refused anything yet.
    refused: bool,
    last_decrease: Option<LastDecrease>,
}

/// A host's law, of which ours is at hand.
#[derive(Debug)]
#[repr(C)]
#[allow(clippy::large_enum_variant, reason = "nearly all are ours")]
enum Law {
    Aimd(Aimd),
    Other(Box<dyn LimitLaw>),
}

impl Deref for Law {
    type Target = dyn LimitLaw;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Aimd(law) => law,
            Self::Other(law) => &**law,
        }
    }
}

impl DerefMut for Law {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Aimd(law) => law,
            Self::Other(law) => &mut **law,
        }
    }
}

/// What a limiter is made from.
#[doc(hidden)]
#[derive(Clone, Default)]
pub struct LimiterConfig {
    pub(crate) law: LawConfig,
    pub(crate) custom: Option<MakeLaw>,
}

/// Makes the law of one host, from the settings of the day and its seed.
pub(crate) type MakeLaw = Arc<dyn Fn(&LawConfig, u64) -> Box<dyn LimitLaw> + Send + Sync>;

impl fmt::Debug for LimiterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimiterConfig")
            .field("law", &self.law)
            .field("custom", &self.custom.is_some())
            .finish()
    }
}

/// What a call with a slot carries.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// How many it really is.
    weight: usize,
    in_flight: usize,
    binding: bool,
}

/// The state of one host's limiter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimiterSnapshot {
    /// How many calls may be in flight.
    pub limit: usize,
    /// How many calls hold a slot.
    pub in_flight: usize,
    /// How many slots cool after a refusal.
    pub cooling: usize,
    /// How many calls wait for a slot.
    pub waiting: usize,
    /// The smoothed round-trip time of successes, once there is one.
    pub srtt: Option<Duration>,
    /// When and why the limit last went down, if it did.
    pub last_decrease: Option<LastDecrease>,
}

/// A limit that went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastDecrease {
    /// When it did.
    pub at: Instant,
    /// From where to where, and why.
    pub change: Change,
}

impl Limiter {
    /// Takes a slot whether one is free or not, for a breaker's probe.
    pub(crate) fn grant(&mut self, ask: Ask) -> Slot {
        let weight = self.clamp(ask.weight);
        self.in_flight += weight;
        self.last_start = Some(ask.now);
        Slot {
            weight,
            in_flight: self.in_flight,
            binding: ask.crowded || self.in_flight + self.cooling.len() >= self.slots(),
        }
    }

    pub(crate) fn snapshot(&mut self, now: Instant, waiting: usize) -> LimiterSnapshot {
        self.thaw(now);
        LimiterSnapshot {
            limit: self.slots(),
            in_flight: self.in_flight,
            cooling: self.cooling.len(),
            waiting,
            srtt: self.law.srtt(),
            last_decrease: self.last_decrease,
        }
    }

    fn changed(&mut self, change: Option<Change>, now: Instant, events: &mut Events) {
        let Some(change) = change else {
            return;
        };
        if change.after < change.before {
            self.last_decrease = Some(LastDecrease { at: now, change });
        }
        events.push(Event::Limit {
            change,
            ceiling: self.law.ceiling(),
        });
    }

    fn thaw(&mut self, now: Instant) {
        while self.cooling.peek().is_some_and(|until| until.0 <= now) {
            self.cooling.pop();
        }
    }

    /// A limit of 0 would let nothing through that could raise it again.
    #[inline]
    fn slots(&self) -> usize {
        self.law.limit().max(1)
    }

    fn has_room(&self, weight: usize) -> bool {
        self.in_flight + self.cooling.len() + self.clamp(weight) <= self.slots()
    }

    /// A call that weighs more than the limit takes the whole of it.
    fn clamp(&self, weight: usize) -> usize {
        weight.min(self.slots())
    }

    /// Finds out whether time matters to the next call.
    #[inline]
    fn look_ahead(&mut self) {
        let timeless =
            self.cooling.is_empty() && self.paused_until.is_none() && self.law.spacing().is_zero();
        self.at_once = if timeless { self.slots() } else { 0 };
    }

    fn spaced_until(&self) -> Option<Instant> {
        let spacing = self.law.spacing();
        let last = self.last_start.filter(|_| !spacing.is_zero())?;
        Some(far(last, spacing))
    }
}

impl Sealed for Limiter {}

impl Gate for Limiter {
    type Config = LimiterConfig;
    type Ticket = Slot;

    fn open(config: &LimiterConfig, _: &Arc<str>, seed: u64, _: Instant) -> Self {
        let mut limiter = Self {
            in_flight: 0,
            at_once: 0,
            law: match &config.custom {
                Some(make) => Law::Other(make(&config.law, seed)),
                None => Law::Aimd(Aimd::new(&config.law, seed)),
            },
            cooling: BinaryHeap::new(),
            paused_until: None,
            last_start: None,
            refused: false,
            last_decrease: None,
        };
        limiter.look_ahead();
        limiter
    }

    #[inline]
    fn admit_at_once(&mut self, weight: usize) -> Option<Slot> {
        let in_flight = self.in_flight.checked_add(weight)?;
        if in_flight > self.at_once {
            return None;
        }
        self.in_flight = in_flight;
        Some(Slot {
            weight,
            in_flight,
            binding: in_flight == self.at_once,
        })
    }

    fn ask(&mut self, ask: Ask, _: &mut Events) -> Answer<Slot> {
        self.thaw(ask.now);
        self.paused_until = self.paused_until.filter(|until| *until > ask.now);
        self.look_ahead();
        let later = self.paused_until.max(self.spaced_until());
        if later.is_some_and(|later| later > ask.now) || !self.has_room(ask.weight) {
            return Answer::Wait;
        }
        Answer::Go(self.grant(ask))
    }

    fn refuses(&self, _: Instant) -> Option<BoxError> {
        None
    }

    fn is_shut(&self, _: Instant) -> bool {
        false
    }

    #[inline]
    fn settle(&mut self, slot: Slot, end: &End, events: &mut Events) {
        const IGNORED: &Outcome = &Outcome::ignored();
        let outcome = match &end.how {
            How::Outcome(outcome) => outcome,
            How::Cancelled | How::Panicked => IGNORED,
        };
        let in_flight = self.in_flight;
        // Before the law: should that panic, the slot would be lost.
        self.in_flight -= slot.weight;
        let sample = Sample {
            started: end.started,
            now: end.now,
            rtt: end.rtt,
            in_flight_at_start: slot.in_flight,
            in_flight,
            binding: slot.binding,
            verdict: outcome.verdict,
            hint: outcome.wait(),
        };
        if self.at_once > 0
            && let Law::Aimd(law) = &mut self.law
            && law.eases(&sample)
        {
            // As many calls may go at once as before.
            return;
        }
        let Decision {
            cool,
            pause,
            change,
            ..
        } = self.law.settle(&sample);
        if !cool.is_zero() {
            let until = Reverse(far(end.now, cool));
            self.cooling.extend(std::iter::repeat_n(until, slot.weight));
        }
        if let Some(pause) = pause {
            self.paused_until = self.paused_until.max(Some(far(end.now, pause)));
        }
        let refused = matches!(
            outcome.verdict,
            Verdict::Refused(Refusal::Throttled | Refusal::Unavailable)
        );
        if refused && !std::mem::replace(&mut self.refused, true) {
            events.push(Event::FirstThrottle {
                cause: outcome.cause,
            });
        }
        self.changed(change, end.now, events);
        self.look_ahead();
        if self.at_once == 0 {
            // A call that went at once did not say when.
            self.last_start = self.last_start.max(Some(end.started));
        }
    }

    fn next_event(&self, weight: usize, now: Instant) -> Option<Instant> {
        let slot = if self.has_room(weight) {
            now
        } else {
            self.cooling.peek()?.0
        };
        let later = self.paused_until.max(self.spaced_until());
        Some(later.map_or(slot, |later| later.max(slot)))
    }

    fn reconfigure(&mut self, config: &LimiterConfig, now: Instant, events: &mut Events) {
        let change = self.law.reconfigure(&config.law);
        self.changed(change, now, events);
        self.look_ahead();
    }

    fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }

    fn limit(&self) -> Option<usize> {
        Some(self.slots())
    }

    fn srtt(&self) -> Option<Duration> {
        self.law.srtt()
    }

    fn hold(&self, _: Slot) -> Option<Duration> {
        None
    }
}
