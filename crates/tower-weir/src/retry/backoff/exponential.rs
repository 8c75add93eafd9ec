use std::time::Duration;

use super::{Backoff, Bounds, InvalidBackoff, between};

/// A wait drawn around a value that doubles with every retry.
///
/// That value, `c`, is `min(cap, base * 2^(retry - 1))`; [`Jitter`] says how the
/// wait lies around it. No wait is over the cap.
///
/// The default: a base of 0.25 s, a cap of 60 s, [`Jitter::Full`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExponentialJitter {
    bounds: Bounds,
    jitter: Jitter,
}

/// How a wait of [`ExponentialJitter`] is drawn around its value `c`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Jitter {
    /// From 0 to `c`: spreads callers widest, and some hardly wait.
    #[default]
    Full,
    /// From `c / 2` to `c`: everyone waits at least half.
    Equal,
    /// From `c / 2` to `3c / 2`, `c` in the mean. Where the upper end would pass
    /// the cap, the cap takes its place, so that the waits keep their spread
    /// there and do not gather on the cap.
    Band,
}

impl ExponentialJitter {
    /// Values that double from `base` up to `cap`.
    ///
    /// A base over the cap is allowed; the value is then the cap from the first
    /// retry on, and the wait is drawn around that. In a file of settings (feature
    /// `config`), where it is a slip, it is an error.
    ///
    /// # Errors
    ///
    /// If `base` or `cap` is zero.
    pub const fn new(
        base: Duration,
        cap: Duration,
        jitter: Jitter,
    ) -> Result<Self, InvalidBackoff> {
        match Bounds::new(base, cap) {
            Ok(bounds) => Ok(Self { bounds, jitter }),
            Err(invalid) => Err(invalid),
        }
    }

    fn value(&self, retry: u32) -> Duration {
        let Bounds { base, cap } = self.bounds;
        // 2^128 s is beyond every duration, from one nanosecond up.
        let doublings = retry.saturating_sub(1).min(128) as i32;
        Duration::try_from_secs_f64(base.as_secs_f64() * 2f64.powi(doublings))
            .map_or(cap, |value| value.min(cap))
    }
}

impl Backoff for ExponentialJitter {
    fn delay(&self, retry: u32, _prev: Option<Duration>, u: f64) -> Duration {
        let value = self.value(retry);
        let half = value / 2;
        let (low, high) = match self.jitter {
            Jitter::Full => (Duration::ZERO, value),
            Jitter::Equal => (half, value),
            Jitter::Band => (half, value.saturating_add(half).min(self.bounds.cap)),
        };
        between(low, high, u)
    }
}
