//! How long to wait before a retry when the upstream did not say.
//!
//! A backoff is a pure rule: what the wait depends on comes in, the wait goes
//! out. So one value serves all requests of a layer, and each request keeps only
//! its last wait and its own stream of random numbers.
//!
//! The jitter is not an ornament. Callers that were turned away together come
//! back together, and a wait without a random part turns one burst into a row of
//! them. That is why [`DecorrelatedJitter`] is the default and [`Constant`] is
//! for those who know that they are alone.

mod decorrelated;
mod exponential;
mod tower;

#[cfg(test)]
mod tests;

use std::{error::Error, fmt, sync::Arc, time::Duration};

pub use self::{
    decorrelated::DecorrelatedJitter,
    exponential::{ExponentialJitter, Jitter},
    tower::{FromTower, ToTower, TowerSession},
};

/// A rule for the waits between the attempts of a request.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a backoff",
    label = "this does not implement `Backoff`",
    note = "`Constant::new(duration)` waits the same before every retry",
    note = "`FromTower::new(maker)` makes one of tower's backoffs"
)]
pub trait Backoff: fmt::Debug + Send + Sync {
    /// How long to wait before a retry.
    ///
    /// - `retry` counts from 1, the first retry. 0 is taken for 1.
    /// - `prev` is what this rule last gave for the same request: `None` before
    ///   the first retry, and again after a wait that the upstream chose.
    /// - `u` is a random number, uniform in [0, 1). The same `u` gives the same
    ///   wait. What lies outside is taken for the nearer end; a NaN for 1.
    fn delay(&self, retry: u32, prev: Option<Duration>, u: f64) -> Duration;
}

impl<T: Backoff + ?Sized> Backoff for Arc<T> {
    fn delay(&self, retry: u32, prev: Option<Duration>, u: f64) -> Duration {
        (**self).delay(retry, prev, u)
    }
}

/// The same wait before every retry, without any jitter.
///
/// Callers that fail together will retry together. It suits a single client with
/// one request at a time, and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constant(Duration);

impl Constant {
    /// Waits `delay` before every retry. Any duration will do, zero too.
    pub const fn new(delay: Duration) -> Self {
        Self(delay)
    }
}

impl Backoff for Constant {
    fn delay(&self, _retry: u32, _prev: Option<Duration>, _u: f64) -> Duration {
        self.0
    }
}

/// Why a backoff was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidBackoff {
    /// The base is zero, from which no wait can grow.
    ZeroBase,
    /// The cap is zero, which would leave no wait.
    ZeroCap,
}

impl fmt::Display for InvalidBackoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroBase => "invalid backoff: the base must be more than zero",
            Self::ZeroCap => "invalid backoff: the cap must be more than zero",
        })
    }
}

impl Error for InvalidBackoff {}

/// The least wait to grow from and the greatest to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    base: Duration,
    cap: Duration,
}

impl Bounds {
    const fn new(base: Duration, cap: Duration) -> Result<Self, InvalidBackoff> {
        if base.is_zero() {
            return Err(InvalidBackoff::ZeroBase);
        }
        if cap.is_zero() {
            return Err(InvalidBackoff::ZeroCap);
        }
        Ok(Self { base, cap })
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(250),
            cap: Duration::from_secs(60),
        }
    }
}

/// The point that lies `u` of the way from `low` to `high`.
fn between(low: Duration, high: Duration, u: f64) -> Duration {
    let span = high.saturating_sub(low);
    // Near `Duration::MAX` the product rounds up to more than a duration holds.
    let part = Duration::try_from_secs_f64(span.as_secs_f64() * u.clamp(0.0, 1.0));
    low.saturating_add(part.unwrap_or(span).min(span))
}
