//! The arithmetic that finds the limit.
//!
//! A law is told what became of each call and answers with a limit. It has no
//! clock, does no I/O and never waits: time and the counts of slots come in as
//! arguments, and its random numbers from a seed, so that a run can be replayed.
//! [`Aimd`] is the law of [`AimdConcurrencyLayer`](super), [`FixedLimit`] one
//! that stays where it is put; others implement [`LimitLaw`].

mod aimd;
mod ceiling;
mod cooling;
mod fixed;
mod latency;
mod pacing;

use std::{fmt, time::Duration};

use tokio::time::Instant;

pub use self::{aimd::Aimd, fixed::FixedLimit};
use super::LawConfig;
use crate::outcome::Verdict;

/// A rule that turns the results of calls into a limit on how many may be in
/// flight.
pub trait LimitLaw: fmt::Debug + Send + 'static {
    /// How many slots there are; at least 1. The limiter takes 0 for 1, since
    /// nothing could raise it again.
    ///
    /// A call may start while the calls in flight and the slots that cool are
    /// fewer than this together. It must change nowhere but in
    /// [`settle`](Self::settle) and [`reconfigure`](Self::reconfigure), and
    /// [`spacing`](Self::spacing) likewise: the limiter asks after those, and
    /// lets calls go by what it was told then.
    fn limit(&self) -> usize;

    /// Takes in how a call ended and says what becomes of its slot.
    ///
    /// To be called once for each call, before its slot is given to another.
    /// [`limit`](Self::limit) has its new value afterwards.
    fn settle(&mut self, sample: &Sample) -> Decision;

    /// The smoothed round-trip time of successful calls, if one is known.
    fn srtt(&self) -> Option<Duration> {
        None
    }

    /// The least time between the starts of two calls. Zero, the default, means
    /// that only the slots limit them.
    fn spacing(&self) -> Duration {
        Duration::ZERO
    }

    /// The number of calls in flight at which the upstream last refused one, if
    /// it ever did. For events and snapshots.
    fn ceiling(&self) -> Option<usize> {
        None
    }

    /// Takes over settings that changed while calls are in flight. A lower
    /// maximum holds at once.
    ///
    /// Does nothing by default; a law of another kind takes what concerns it.
    fn reconfigure(&mut self, config: &LawConfig) -> Option<Change> {
        let _ = config;
        None
    }
}

/// What a law is told when a call has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When the call was sent; one that never was, when its slot was granted.
    pub started: Instant,
    /// The present.
    pub now: Instant,
    /// The time from sending the request to the head of its response (to the
    /// trailers of a unary gRPC call).
    pub rtt: Duration,
    /// The slots in use when the call started, its own included, those that
    /// cooled not.
    pub in_flight_at_start: usize,
    /// The slots in use now, the call's own included, those that cool not.
    pub in_flight: usize,
    /// Whether the limit was in the way when the call started: someone waited,
    /// or the call took the last slot.
    pub binding: bool,
    /// What the call says about the upstream.
    pub verdict: Verdict,
    /// How long the upstream asked to be left alone.
    pub hint: Option<Duration>,
}

/// What a law decides when a call has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a slot that ought to cool is used again at once"]
#[non_exhaustive]
pub struct Decision {
    /// How long the call's slot stays closed. Zero: it is free at once.
    pub cool: Duration,
    /// How long no call at all may start, counted from now.
    pub pause: Option<Duration>,
    /// The limit's change, if it changed.
    pub change: Option<Change>,
}

/// A limit that moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The limit before.
    pub before: usize,
    /// The limit after.
    pub after: usize,
    /// Why it moved.
    pub cause: ChangeCause,
}

impl Change {
    /// The change from `before` to `after`; none if they are the same.
    pub fn between(before: usize, after: usize, cause: ChangeCause) -> Option<Self> {
        (before != after).then_some(Self {
            before,
            after,
            cause,
        })
    }
}

/// Why a limit moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeCause {
    /// Up: calls succeeded while the limit was in their way.
    Success,
    /// Down: the upstream refused a call.
    Refused,
    /// Down: a call's time was up.
    Timeout,
    /// Up or down: round trips became too long, or a look at how long they are
    /// without our load ended ([`LatencySignal`](super::LatencySignal)).
    Latency,
    /// Up or down: the settings changed.
    Settings,
}

impl ChangeCause {
    /// The word used in logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Latency => "latency",
            Self::Settings => "settings",
        }
    }
}

impl fmt::Display for ChangeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
