use std::time::Duration;

use tokio::time::Instant;

/// What a success takes off the gap. Steps four times as long lose 6% of a
/// bucket's quota, since the gap is too long for half of the time.
const SHORTEN: f64 = 1.0 / 512.0;

/// How many times longer than usual a run of successes must be for the gap to
/// be put to the test. With 2 a window of a minute is tested in vain (0.18
/// refusals a success for 0.17).
const LONGER: f64 = 3.0;

/// What the first step of a test leaves of the gap; each further one leaves
/// half. At half from the start, what a bucket allows is overshot further.
const FIRST_STEP: f64 = 0.75;

/// What refusals in a row add at least. With [`SHORTEN`] it settles where one
/// call in sixteen is refused: just above what the upstream allows, so that
/// nothing of it is lost.
const LENGTHEN: f64 = 1.0 / 32.0;

/// So many successes since the refusals before let the gap double, half as many
/// grow by half: a mean of few calls is no measure, and an outage is not to be
/// taken for a lower quota.
const TRUSTED: f64 = 32.0;

/// The refusal in a row at which the gap is whole again; each before it halves
/// it. A call that came a little early need only come a little later, and with
/// a whole gap in between, each refusal would cost a call (0.89 of a bucket's
/// quota instead of 0.97).
const SOON: u32 = 3;

/// The longest gap between two calls.
const LONGEST: f64 = 60.0;

/// What is taken for the usual run of successes before there was one.
const FIRST_RUN: f64 = 4.0;

/// The weight of a run's length in the usual one.
const GAIN: f64 = 0.25;

/// Runs that are shorter than this on average say that no quota is at work: at
/// the right gap one call in sixteen is refused, in a crowd every other.
const LEAST_RUN: f64 = 2.5;

/// A gap that does not matter is remembered this long: no upstream that matters
/// counts over more than a minute or two.
pub(super) const LONGEST_WINDOW: Duration = Duration::from_secs(150);

/// A gap between calls that follows an upstream's quota.
///
/// A gap may also come from a crowd in front of few slots, and outlast it: a
/// client that found its gap among fifteen others kept to it when they were done,
/// and a run of 80 s took 100. So a gap that goes unopposed for long, or that no
/// refusal has confirmed yet, is put to the test: it shrinks quickly until there
/// is a refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    seconds: f64,
    /// The gap before the test that is going on.
    tested: Option<f64>,
    is_idle: bool,
    /// How many successes there are between refusals, smoothed.
    usual: Option<f64>,
    /// Refusals since the last success.
    in_a_row: u32,
    /// When refusals in a row last ended, and the successes since.
    since: Instant,
    successes: u32,
}

/// What a gap has proved to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It may well be the upstream's.
    Good,
    /// One slot is slower than that anyhow.
    Needless,
    /// Calls are refused as if there were none.
    Useless,
}

impl Gap {
    pub(super) fn new(seconds: f64, now: Instant) -> Self {
        Self {
            seconds,
            tested: None,
            is_idle: false,
            usual: None,
            in_a_row: 0,
            since: now,
            successes: 0,
        }
    }

    /// The time to leave before the next call.
    pub(super) fn seconds(&self) -> f64 {
        let whole = self.tested.unwrap_or(self.seconds);
        match self.in_a_row {
            0 => self.seconds,
            refusals => whole / f64::from(1 << (SOON - refusals)),
        }
    }

    /// A call succeeded; calls take `srtt` seconds.
    pub(super) fn succeeded(&mut self, now: Instant, srtt: f64) -> Fit {
        self.successes += 1;
        if self.in_a_row == 0 {
            self.shorten();
            // A slot is slower than this by far: no gap is left.
            self.is_idle = self.seconds < srtt / 2.0;
            return match self.is_idle && now - self.since > LONGEST_WINDOW {
                true => Fit::Needless,
                false => Fit::Good,
            };
        }
        let usual = self.usual.unwrap_or(FIRST_RUN);
        let usual = usual + GAIN * (f64::from(self.successes) - usual);
        *self = Self {
            usual: Some(usual),
            ..Self::new(self.measured(now), now)
        };
        if self.seconds <= srtt {
            Fit::Needless
        } else if usual < LEAST_RUN {
            Fit::Useless
        } else {
            Fit::Good
        }
    }

    fn shorten(&mut self) {
        let usual = LONGER * self.usual.unwrap_or(0.0);
        self.seconds *= match self.tested {
            Some(_) => 0.5,
            None if f64::from(self.successes) > usual => {
                self.tested = Some(self.seconds);
                FIRST_STEP
            }
            None => 1.0 - SHORTEN,
        };
    }

    /// What the upstream let through from the end of one run of refusals to the
    /// end of the next is its quota.
    fn measured(&self, now: Instant) -> f64 {
        let calls = f64::from(self.successes);
        let mean = (now - self.since).as_secs_f64() / calls;
        let before = self.tested.unwrap_or(self.seconds) * (1.0 - SHORTEN);
        let least = before * (1.0 + LENGTHEN);
        let seconds = match self.tested {
            None => mean.min(before * (1.0 + calls / TRUSTED)).max(least),
            // The gap before was not the upstream's, or it is no longer.
            Some(_) if calls >= TRUSTED => mean,
            Some(_) => mean.min(least),
        };
        seconds.min(LONGEST)
    }

    pub(super) fn throttled(&mut self) {
        self.in_a_row = (self.in_a_row + 1).min(SOON);
    }

    /// Whether no gap is left between calls.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle && self.in_a_row == 0
    }
}
