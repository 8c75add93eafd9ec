use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use tokio::time::Instant;

use super::Sample;
use crate::{outcome::Refusal, srtt::Srtt};

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

/// The same while no call has succeeded: a part of the time for which that has
/// been so, up to [`MOST_DOUBLED_THROTTLED_TO`]. A client that never got one of
/// the slots knows nothing of the round trip. A fixed bound is too short for
/// calls of seconds (10 s: eight clients on two slots, 2 s a call, 0.55 refusals
/// a success, now 0.36) and too long for quick ones (16 clients with 1,000 calls
/// of 20 ms each on 4 slots took up to 27% longer than need be, now 3%).
const UNKNOWN_PART: u32 = 8;

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

/// The successes at the least limit after which a client gives way to others
/// that want its slot. Whoever has a slot sends its next call before anybody else
/// can: of 16 clients on 4 slots a few would have them for minutes (Jain's index
/// 0.57, with this 0.76). It costs 0.4% of the goodput; 32 would cost 1.2% and
/// bring no more.
const TURN: u32 = 64;

/// For how many round trips it does: the others ask every twelve or so, and a
/// crowd of them takes the slot in less than two.
const GIVE_WAY: f64 = 2.0;

/// How often in a row nobody may want the slot until it is taken for granted
/// that nobody does.
const IN_VAIN: u32 = 2;

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
#[repr(C)]
pub(super) struct Cooling {
    srtt: Srtt,
    /// Refusals at the least limit, less the successes since.
    in_a_row: u32,
    /// The first refusal, while there was no success.
    refused_since: Option<Instant>,
    /// Successes since others last had a chance of the slot.
    turn: u32,
    /// How often to give way yet without a sign of others.
    contended: u32,
    random: Xoshiro256PlusPlus,
}

impl Cooling {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            srtt: Srtt::default(),
            in_a_row: 0,
            refused_since: None,
            turn: 0,
            contended: 0,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    #[inline]
    pub(super) fn srtt(&self) -> Option<Duration> {
        self.srtt.get()
    }

    /// A call succeeded, and none was ever refused.
    #[inline]
    pub(super) fn eased(&mut self, rtt: Duration) {
        self.srtt.add(rtt);
    }

    /// A call succeeded. Returns how long its slot is to be left to others.
    #[inline]
    pub(super) fn succeeded(&mut self, rtt: Duration, at_least: bool) -> Duration {
        self.in_a_row = self.in_a_row.min(REMEMBERED + 1).saturating_sub(1);
        self.srtt.add(rtt);
        if !at_least || self.contended == 0 {
            return Duration::ZERO;
        }
        self.turn += 1;
        if self.turn < TURN {
            return Duration::ZERO;
        }
        self.turn = 0;
        self.contended -= 1;
        let srtt = self.srtt().unwrap_or(rtt);
        self.spread(srtt.mul_f64(GIVE_WAY))
    }

    /// How long the slot of a refused call is to stay closed: about as long as
    /// it would have been busy with a success, less the time it already was.
    /// The spread keeps clients that were refused together from coming back
    /// together.
    pub(super) fn refused(
        &mut self,
        sample: &Sample,
        refusal: Refusal,
        at_least: bool,
    ) -> Duration {
        let mut time = self.srtt().unwrap_or(UNKNOWN_RTT);
        let since = *self.refused_since.get_or_insert(sample.now);
        if at_least {
            let most = match (refusal, self.srtt()) {
                (Refusal::Throttled, None) => {
                    ((sample.now - since) / UNKNOWN_PART).min(MOST_DOUBLED_THROTTLED_TO)
                }
                (Refusal::Throttled, Some(srtt)) => {
                    let most = srtt.saturating_mul(MOST_DOUBLED_THROTTLED);
                    most.min(MOST_DOUBLED_THROTTLED_TO.max(srtt))
                }
                _ => time.saturating_mul(MOST_DOUBLED_UNAVAILABLE),
            };
            let doubled = time.saturating_mul(1 << self.in_a_row.min(20));
            time = doubled.min(most.max(MOST_DOUBLED_TO));
            self.in_a_row = self.in_a_row.saturating_add(1);
            if refusal == Refusal::Throttled {
                self.turn = 0;
                self.contended = IN_VAIN;
            }
        }
        self.spread(time).saturating_sub(sample.rtt)
    }

    fn spread(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.random.random_range(0.5..1.5))
    }

    /// How long to leave the upstream alone that asked for `hint`. Up to a tenth
    /// more, lest all its clients come back at the same moment.
    pub(super) fn pause(&mut self, hint: Duration) -> Duration {
        hint.min(MAX_PAUSE)
            .mul_f64(self.random.random_range(1.0..1.1))
            .min(MAX_PAUSE)
    }
}
