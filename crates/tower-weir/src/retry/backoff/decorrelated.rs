use std::time::Duration;

use super::{Backoff, Bounds, InvalidBackoff, between};

/// A wait drawn between the base and three times the wait before it: the
/// default.
///
/// `delay = min(cap, base + u * (max(base, 3 * prev) - base))`, where `prev` is
/// the request's last wait as it was capped, and the base before the first
/// retry. It is the "decorrelated jitter" of the AWS Architecture Blog
/// (*Exponential Backoff And Jitter*, 2015).
///
/// Each wait depends on the one drawn before it and not on the number of the
/// retry, so requests that failed together drift further apart with every retry.
/// With the defaults the waits before retries 1 to 4 are 0.5, 0.875, 1.44 and
/// 2.28 s in the mean.
///
/// The default: a base of 0.25 s, long enough for a restarted process or a moved
/// leader to be found at the first retry, and a cap of 60 s, beyond which few
/// callers still want the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecorrelatedJitter(Bounds);

impl DecorrelatedJitter {
    /// Waits of at least `base` and at most `cap`.
    ///
    /// A base over the cap is allowed; every wait is then the cap, without any
    /// jitter, like a [`Constant`](super::Constant) one. In a file of settings
    /// (feature `config`), where it is a slip, it is an error.
    ///
    /// # Errors
    ///
    /// If `base` or `cap` is zero.
    pub const fn new(base: Duration, cap: Duration) -> Result<Self, InvalidBackoff> {
        match Bounds::new(base, cap) {
            Ok(bounds) => Ok(Self(bounds)),
            Err(invalid) => Err(invalid),
        }
    }
}

impl Backoff for DecorrelatedJitter {
    fn delay(&self, _retry: u32, prev: Option<Duration>, u: f64) -> Duration {
        let Bounds { base, cap } = self.0;
        let high = prev.unwrap_or(base).saturating_mul(3).max(base);
        between(base, high, u).min(cap)
    }
}
