use std::time::Duration;

use tokio::time::Instant;

/// What a success takes off the gap. Steps four times as long lose 6% of a
/// bucket's quota, since the gap is too long for half of the time.
const SHORTEN: f64 = 1.0 / 512.0;

/// The same before the first refusal, down to `QUICK_TO` of the first gap: slots
/// that cool had lost a part of the quota.
const SHORTEN_FIRST: f64 = 1.0 / 64.0;

/// See [`SHORTEN_FIRST`].
const QUICK_TO: f64 = 0.6;

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

/// A gap between calls that follows an upstream's quota.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    seconds: f64,
    /// Down to here it shortens quickly.
    quick_to: f64,
    /// Refusals since the last success.
    in_a_row: u32,
    /// When refusals in a row last ended, and the successes since.
    since: Instant,
    successes: u32,
}

impl Gap {
    pub(super) fn new(seconds: f64, now: Instant) -> Self {
        Self {
            seconds,
            quick_to: QUICK_TO * seconds,
            in_a_row: 0,
            since: now,
            successes: 0,
        }
    }

    /// The time to leave before the next call.
    pub(super) fn seconds(&self) -> f64 {
        match self.in_a_row {
            0 => self.seconds,
            refusals => self.seconds / f64::from(1 << (SOON - refusals)),
        }
    }

    pub(super) fn succeeded(&mut self, now: Instant) {
        self.successes += 1;
        self.seconds *= 1.0
            - match self.seconds > self.quick_to {
                true => SHORTEN_FIRST,
                false => SHORTEN,
            };
        if self.in_a_row == 0 {
            return;
        }
        // What the upstream let through from the end of one run of refusals to
        // the end of the next is its quota.
        let calls = f64::from(self.successes);
        let mean = (now - self.since).as_secs_f64() / calls;
        let least = self.seconds * (1.0 + LENGTHEN);
        let most = self.seconds * (1.0 + calls / TRUSTED);
        *self = Self {
            seconds: mean.min(most).max(least).min(LONGEST),
            quick_to: f64::INFINITY,
            in_a_row: 0,
            since: now,
            successes: 0,
        };
    }

    pub(super) fn throttled(&mut self) {
        self.in_a_row = (self.in_a_row + 1).min(SOON);
    }

    /// Whether a slot is slower than this by far, so that no gap is left between
    /// its calls.
    pub(super) fn is_idle(&self, srtt: Duration) -> bool {
        self.seconds < srtt.as_secs_f64() / 2.0
    }
}
