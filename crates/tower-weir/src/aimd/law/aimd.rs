#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Change, ChangeCause, Decision, LawConfig, LimitLaw, Sample,
    ceiling::Ceiling,
    cooling::Cooling,
    latency::{Latency, Signal},
    pacing::Pacing,
};
use crate::{
    aimd::Decrease,
    outcome::{Failure, Refusal, Verdict},
};

/// The law of the AIMD limiter: additive increase, and a decrease that measures
/// how much too much there was.
///
/// The limit doubles each round trip until the upstream first refuses a call,
/// then keeps close below the number in flight at which it did, and looks ever
/// more rarely whether that still holds. Refusals of calls that were under way
/// together count as one overload, and the slot of a refused call cools before
/// it is used again.
// What a success at ease touches lies together: the end of the ceiling, the limit,
// and the beginning of the cooling.
#[derive(Debug)]
#[repr(C)]
pub struct Aimd {
    ceiling: Ceiling,
    limit: usize,
    /// Whether a success does no more than let the limit grow where it is in the
    /// way: there was no overload yet, and nothing is being tried.
    at_ease: bool,
    cooling: Cooling,
    /// Up to this the limit doubles each round; unknown before an overload.
    threshold: Option<usize>,
    epoch: Option<Epoch>,
    /// Successes towards the next step up.
    streak: usize,
    pacing: Pacing,
    // Boxed: few want it, and it is as large as half of the rest.
    latency: Option<Box<Latency>>,
    config: LawConfig,
}

/// The time since the last decrease.
///
/// Calls that started before it were admitted under the old limit: what becomes
/// of them says nothing about the new one. Without epochs, K refusals of one
/// burst would halve the limit K times.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    began: Instant,
    /// Half of what was in flight when it began: the overload that began it
    /// takes the limit no lower.
    floor: usize,
    /// Whether a call that started in it has succeeded. An overload without a
    /// success before it is an outage going on: it teaches nothing about the
    /// ceiling, and what was known before makes the recovery fast (1.0 s for
    /// 1.6 s after 20 s).
    succeeded: bool,
}

impl Aimd {
    /// A law for one upstream. Laws with the same seed that are told the same
    /// decide the same, on every platform; clients of one upstream should have
    /// different ones.
    pub fn new(config: &LawConfig, seed: u64) -> Self {
        let config = config.in_range();
        Self {
            ceiling: Ceiling::new(),
            limit: config.initial,
            at_ease: config.latency.is_none(),
            cooling: Cooling::new(seed),
            threshold: None,
            epoch: None,
            streak: 0,
            pacing: Pacing::new(),
            latency: latency_of(&config),
            config,
        }
    }

    /// Whether the call started under the present limit.
    #[inline]
    fn is_current(&self, sample: &Sample) -> bool {
        self.epoch.is_none_or(|epoch| sample.started > epoch.began)
    }

    fn is_at_ease(&self) -> bool {
        self.epoch.is_none() && self.latency.is_none() && self.pacing.is_at_ease()
    }

    /// Takes in a success that teaches nothing but its time, as most calls by far
    /// do; whether it was one. It leaves its slot to nobody, since the upstream has
    /// refused nothing, and changes neither the limit nor the spacing.
    #[inline]
    pub(in crate::aimd) fn eases(&mut self, sample: &Sample) -> bool {
        let eases = sample.verdict == Verdict::Success && self.at_ease && !self.is_pressed(sample);
        if eases {
            self.cooling.eased(sample.rtt);
            self.ceiling.succeeded();
        }
        eases
    }

    /// Returns how long the slot is to be left to others, and why the limit
    /// changed, if it did.
    #[inline]
    fn succeeded(&mut self, sample: &Sample) -> (Duration, ChangeCause) {
        let at_least = self.limit == self.config.min;
        let cool = self.cooling.succeeded(sample.rtt, at_least);
        self.ceiling.succeeded();
        let srtt = self.cooling.srtt().unwrap_or(sample.rtt);
        self.pacing.succeeded(sample.started, sample.now, srtt);
        let may_grow = self.heed_latency(sample);
        if self.is_current(sample) {
            if let Some(epoch) = &mut self.epoch {
                epoch.succeeded = true;
            }
            if may_grow && !self.pacing.is_on() && self.is_pressed(sample) {
                self.grow();
            }
        }
        match may_grow {
            true => (cool, ChangeCause::Success),
            false => (cool, ChangeCause::Latency),
        }
    }

    /// Whether the round trips leave room to grow.
    #[inline]
    fn heed_latency(&mut self, sample: &Sample) -> bool {
        let Some(latency) = &mut self.latency else {
            return true;
        };
        let was_probing = latency.is_probing();
        let signal = latency.succeeded(sample, self.limit);
        let probe_ended = was_probing && !latency.is_probing();
        if signal == Signal::Shrink {
            self.shrink(sample.now);
        }
        if signal != Signal::Free {
            let threshold = self.threshold.unwrap_or(self.limit);
            self.threshold = Some(threshold.min(self.limit));
        }
        signal == Signal::Free && !probe_ended
    }

    /// Gives a tenth back to an upstream whose queue is ours.
    fn shrink(&mut self, now: Instant) {
        self.limit = (self.limit * 9 / 10).max(self.config.min);
        self.streak = 0;
        self.epoch = Some(Epoch {
            began: now,
            floor: (self.limit / 2).max(self.config.min),
            // It answers: a refusal that follows is an overload like any other.
            succeeded: true,
        });
    }

    /// Whether the limit is what keeps more calls from being in flight: only
    /// then does a success say that a greater one might do. (After 2,000 calls
    /// one after the other, a law without this stands at a limit of 1,000.)
    #[inline]
    fn is_pressed(&self, sample: &Sample) -> bool {
        let in_flight = sample.in_flight_at_start.max(sample.in_flight);
        // A tenth may be on its way from one call to the next, or the limit may
        // have grown since this one was sent.
        let full = in_flight >= nine_tenths(self.limit);
        // After a halving, calls are often few for a while: either will do.
        sample.binding && full
            || (sample.binding || full) && self.config.decrease == Decrease::Halve
    }

    fn grow(&mut self) {
        if self.limit >= self.config.max {
            return;
        }
        let doubling = self
            .threshold
            .is_none_or(|threshold| self.limit < threshold);
        if !doubling {
            self.streak += 1;
            let round = self.config.least_streak().max(self.limit);
            if self.streak < round.saturating_mul(self.ceiling.factor(self.limit)) {
                return;
            }
        }
        self.streak = 0;
        self.limit += 1;
        if self.ceiling.stepped(self.limit) {
            self.threshold = None;
        }
    }

    fn refused(&mut self, sample: &Sample, refusal: Refusal) -> Decision {
        let at_least = self.limit == self.config.min;
        // Retry-After belongs to the request that was refused. Pausing for every
        // one costs half the goodput (0.96 to 0.47): a full server goes on
        // working, and says "1 s" because there is no smaller number.
        let pause = match (self.epoch, sample.hint) {
            (Some(epoch), Some(hint))
                if at_least && !epoch.succeeded && self.is_current(sample) =>
            {
                Some(self.cooling.pause(hint))
            }
            _ => None,
        };
        if self.is_current(sample) {
            self.overloaded(sample, self.config.decrease);
        } else if self.config.decrease == Decrease::Proportional {
            self.give_one_back();
        }
        let cool = self.cooling.refused(sample, refusal, at_least);
        if refusal == Refusal::Throttled {
            self.pacing
                .throttled(sample.started, sample.now, cool, at_least);
        }
        Decision {
            cool,
            pause,
            change: None,
        }
    }

    /// One slot, whatever the decrease: a hung call has held its slot for long
    /// already, so that there was no burst of them.
    fn timed_out(&mut self, sample: &Sample) {
        if self.is_current(sample) {
            self.overloaded(sample, Decrease::Proportional);
        } else {
            self.give_one_back();
        }
    }

    fn overloaded(&mut self, sample: &Sample, decrease: Decrease) {
        if let Some(latency) = &mut self.latency {
            latency.overloaded();
        }
        let min = self.config.min;
        let learns = self.epoch.is_none_or(|epoch| epoch.succeeded);
        let mut floor = self.epoch.map_or(min, |epoch| epoch.floor);
        self.streak = 0;
        if self.limit == min {
            if learns {
                let threshold = self.threshold.unwrap_or(self.config.max);
                self.threshold = Some((threshold / 2).max(1));
            }
        } else {
            // The larger of both counts: with the one at the start alone a server
            // that hangs is kept at 0.59 of its goodput instead of 0.92.
            let in_flight = sample.in_flight_at_start.max(sample.in_flight);
            let in_flight = in_flight.clamp(1, self.limit);
            floor = (in_flight / 2).max(min);
            if learns {
                // Rounded down: at 5 it is 4, or one success would climb right
                // back onto a ceiling of 4 slots (0.87 of them busy, not 0.97).
                self.threshold = Some(nine_tenths(in_flight).max(1));
                self.ceiling.hit(in_flight);
            }
            self.limit = match decrease {
                Decrease::Proportional => (in_flight - 1).max(min),
                Decrease::Halve => floor,
            };
        }
        self.epoch = Some(Epoch {
            began: sample.now,
            floor,
            succeeded: false,
        });
    }

    fn give_one_back(&mut self) {
        let floor = self.epoch.map_or(self.config.min, |epoch| epoch.floor);
        if self.limit > floor {
            self.limit -= 1;
        }
    }
}

/// Rounded down; `n * 9 / 10` overflows where there is no limit to speak of.
const fn nine_tenths(n: usize) -> usize {
    n - n.div_ceil(10)
}

impl LimitLaw for Aimd {
    fn limit(&self) -> usize {
        match &self.latency {
            Some(latency) if latency.is_probing() => (self.limit / 2).max(self.config.min),
            _ => self.limit,
        }
    }

    fn settle(&mut self, sample: &Sample) -> Decision {
        if self.eases(sample) {
            return Decision::default();
        }
        let decision = self.learn(sample);
        self.at_ease = self.is_at_ease();
        decision
    }

    fn srtt(&self) -> Option<Duration> {
        self.cooling.srtt()
    }

    fn spacing(&self) -> Duration {
        self.pacing.gap()
    }

    fn ceiling(&self) -> Option<usize> {
        self.ceiling.last()
    }

    /// The limit moves only as far as a new minimum or maximum makes it;
    /// `initial` is for upstreams not met yet.
    fn reconfigure(&mut self, config: &LawConfig) -> Option<Change> {
        let before = self.limit();
        let signal = self.config.latency;
        self.config = config.in_range();
        self.limit = self.limit.clamp(self.config.min, self.config.max);
        if self.config.latency != signal {
            self.latency = latency_of(&self.config);
        }
        self.at_ease = self.is_at_ease();
        Change::between(before, self.limit(), ChangeCause::Settings)
    }
}

fn latency_of(config: &LawConfig) -> Option<Box<Latency>> {
    config.latency.map(|signal| Box::new(Latency::new(signal)))
}

impl Aimd {
    fn learn(&mut self, sample: &Sample) -> Decision {
        let before = self.limit();
        let (decision, cause) = match sample.verdict {
            Verdict::Success => {
                let (cool, cause) = self.succeeded(sample);
                (
                    Decision {
                        cool,
                        ..Decision::default()
                    },
                    cause,
                )
            }
            Verdict::Refused(refusal @ (Refusal::Throttled | Refusal::Unavailable)) => {
                (self.refused(sample, refusal), ChangeCause::Refused)
            }
            Verdict::Failed(Failure::Timeout) => {
                self.timed_out(sample);
                (Decision::default(), ChangeCause::Timeout)
            }
            Verdict::Refused(Refusal::RequestTimeout)
            | Verdict::Failed(Failure::Error)
            | Verdict::Ignored => return Decision::default(),
        };
        Decision {
            change: Change::between(before, self.limit(), cause),
            ..decision
        }
    }
}
