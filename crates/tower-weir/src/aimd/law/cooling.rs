use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use crate::outcome::Refusal;

/// The weight of a new round-trip time in the smoothed one: ten calls forget
/// most of what was before, and a single slow one moves it by a tenth.
const GAIN: f64 = 0.1;

/// The round-trip time that is assumed before a call has succeeded: about that
/// of a quick service in the same region.
const UNKNOWN_RTT: Duration = Duration::from_millis(20);

/// How many times longer a slot cools at most when the limit is at its least
/// and the upstream says that it lives (429): others hold its slots, and asking
/// more often brings no more of them. With 16 clients on 4 slots, 4 costs 0.8
/// refusals a success, 8 costs 0.45 and 12 costs 0.3; all keep it full. With 16
/// a client that has no slot waits so long for one that the shares drift apart.
const MOST_DOUBLED_THROTTLED: u32 = 12;

/// Up to this, where calls take seconds: a client should find out within a
/// minute that there is room again.
const MOST_DOUBLED_THROTTLED_TO: Duration = Duration::from_secs(30);

/// The same while no call has succeeded: a client that never got one of the
/// slots knows nothing of the round trip, and must not be the one that asks most
/// often.
const UNKNOWN_THROTTLED_TO: Duration = Duration::from_secs(10);

/// The same when it may be down (503): less, since the first call after an
/// outage ends the waiting.
const MOST_DOUBLED_UNAVAILABLE: u32 = 4;

/// Up to this a slot may come to cool in either case. Without it a server whose
/// calls take 5 ms would be asked 13 times a second through an outage.
const MOST_DOUBLED_TO: Duration = Duration::from_millis(450);

/// How many of the refusals in a row count after a success. Each further success
/// takes one off: a slot among many clients is often lost again at once, and one
/// success is no reason to ask as often as at first.
const REMEMBERED: u32 = 4;

/// The longest pause that a hint can bring on; a greater one is a mistake, or a
/// matter for the caller.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How long slots cool, and the round-trip time that it follows.
///
/// A refusal comes back in a few milliseconds. If its slot were used again at
/// once, a full server would be asked hundreds of times a second for the same
/// answer: 16 clients on 4 slots got 101 refusals for each success, and 1.1
/// with slots that cool.
#[derive(Debug)]
pub(super) struct Cooling {
    srtt: Option<Duration>,
    /// Refusals at the least limit, less the successes since.
    in_a_row: u32,
    random: Xoshiro256PlusPlus,
}

impl Cooling {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            srtt: None,
            in_a_row: 0,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    pub(super) fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    pub(super) fn succeeded(&mut self, rtt: Duration) {
        self.in_a_row = self.in_a_row.min(REMEMBERED + 1).saturating_sub(1);
        self.srtt = Some(match self.srtt {
            None => rtt,
            Some(srtt) => srtt.mul_f64(1.0 - GAIN) + rtt.mul_f64(GAIN),
        });
    }

    /// How long the slot of a refused call is to stay closed: about as long as
    /// it would have been busy with a success, less the time it already was.
    /// The spread keeps clients that were refused together from coming back
    /// together.
    pub(super) fn refused(&mut self, refusal: Refusal, rtt: Duration, at_least: bool) -> Duration {
        let mut time = self.srtt.unwrap_or(UNKNOWN_RTT);
        if at_least {
            let most = match (refusal, self.srtt) {
                (Refusal::Throttled, None) => UNKNOWN_THROTTLED_TO,
                (Refusal::Throttled, Some(srtt)) => {
                    let most = srtt.saturating_mul(MOST_DOUBLED_THROTTLED);
                    most.min(MOST_DOUBLED_THROTTLED_TO.max(srtt))
                }
                _ => time.saturating_mul(MOST_DOUBLED_UNAVAILABLE),
            };
            let doubled = time.saturating_mul(1 << self.in_a_row.min(20));
            time = doubled.min(most.max(MOST_DOUBLED_TO));
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        time.mul_f64(self.random.random_range(0.5..1.5))
            .saturating_sub(rtt)
    }

    /// How long to leave the upstream alone that asked for `hint`. Up to a tenth
    /// more, lest all its clients come back at the same moment.
    pub(super) fn pause(&mut self, hint: Duration) -> Duration {
        hint.min(MAX_PAUSE)
            .mul_f64(self.random.random_range(1.0..1.1))
            .min(MAX_PAUSE)
    }
}
