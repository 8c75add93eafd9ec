use std::{error::Error, fmt, time::Duration};

use rand::{Rng, RngExt};

use super::Ratio;

/// How long an open circuit refuses before it lets a probe through.
///
/// The first time `first`; twice as long with each failed probe, up to `cap`;
/// `first` again once the circuit has closed. Then jitter, drawn anew each
/// time, so that clients which saw the same outage do not probe together.
///
/// The default is 1 s up to 15 s, 20% either way. A short first period is what
/// makes a circuit cheap that opened by mistake, and doubling is what spares an
/// upstream that stays down; a cap of 15 s bounds how late its return is seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenFor {
    pub(super) first: Duration,
    pub(super) cap: Duration,
    pub(super) jitter: Option<Ratio>,
}

impl Default for OpenFor {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            cap: Duration::from_secs(15),
            jitter: Some(Ratio(0.2)),
        }
    }
}

impl OpenFor {
    /// Doubles from `first` to `cap`, with jitter of 20%. Give the same value
    /// twice for a period that does not grow.
    ///
    /// # Errors
    ///
    /// [`InvalidOpenFor`] if `first` is zero (an open circuit that never
    /// refuses) or above `cap`.
    pub fn new(first: Duration, cap: Duration) -> Result<Self, InvalidOpenFor> {
        if first.is_zero() {
            return Err(InvalidOpenFor::Zero);
        }
        if first > cap {
            return Err(InvalidOpenFor::AboveCap { first, cap });
        }
        Ok(Self {
            first,
            cap,
            ..Self::default()
        })
    }

    /// How far the period is moved at random, either way, as a share of itself.
    ///
    /// It comes after the cap, which would otherwise gather the clients at
    /// itself: under the defaults the longest period is 18 s. `None` turns it
    /// off. Default: 0.2.
    #[must_use]
    pub fn jitter(mut self, jitter: impl Into<Option<Ratio>>) -> Self {
        self.jitter = jitter.into();
        self
    }

    /// The period, before jitter, of an outage's first opening.
    pub(crate) const fn first(&self) -> Duration {
        self.first
    }

    /// The period, before jitter, that follows `last`.
    pub(crate) fn after(&self, last: Duration) -> Duration {
        // Both bounds: `last` may have been reckoned under another config.
        last.saturating_mul(2).clamp(self.first, self.cap)
    }

    pub(crate) fn jittered(&self, period: Duration, rng: &mut impl Rng) -> Duration {
        let Some(Ratio(jitter)) = self.jitter else {
            return period;
        };
        let factor = rng.random_range(1.0 - jitter..=1.0 + jitter);
        Duration::try_from_secs_f64(period.as_secs_f64() * factor).unwrap_or(Duration::MAX)
    }
}

/// Periods that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidOpenFor {
    /// The first period is zero.
    Zero,
    /// The first period is longer than the cap.
    AboveCap {
        /// The first period.
        first: Duration,
        /// The longest period.
        cap: Duration,
    },
}

impl fmt::Display for InvalidOpenFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("an open period is longer than zero"),
            Self::AboveCap { first, cap } => {
                write!(
                    f,
                    "the first open period, {first:?}, is above its cap, {cap:?}"
                )
            }
        }
    }
}

impl Error for InvalidOpenFor {}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bounds() {
        assert_eq!(OpenFor::new(SECOND, 15 * SECOND), Ok(OpenFor::default()));
        assert!(OpenFor::new(SECOND, SECOND).is_ok());
        assert_eq!(
            OpenFor::new(Duration::ZERO, SECOND),
            Err(InvalidOpenFor::Zero)
        );
        assert_eq!(
            OpenFor::new(2 * SECOND, SECOND).unwrap_err().to_string(),
            "the first open period, 2s, is above its cap, 1s"
        );
    }

    #[test]
    fn doubles_to_the_cap() {
        let mut period = OpenFor::default().first();
        let mut seconds = vec![period.as_secs()];
        for _ in 0..5 {
            period = OpenFor::default().after(period);
            seconds.push(period.as_secs());
        }
        assert_eq!(seconds, [1, 2, 4, 8, 15, 15]);
    }

    #[test]
    fn jitter_fills_its_range_and_no_more() {
        let mut rng = SmallRng::seed_from_u64(7);
        let drawn: Vec<_> = (0..10_000)
            .map(|_| OpenFor::default().jittered(10 * SECOND, &mut rng))
            .collect();
        let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
        assert!((8.0..8.01).contains(&least.as_secs_f64()), "{least:?}");
        assert!((11.99..=12.0).contains(&most.as_secs_f64()), "{most:?}");
        let mean = drawn.iter().sum::<Duration>() / 10_000;
        assert!((9.95..10.05).contains(&mean.as_secs_f64()), "{mean:?}");
    }

    #[test]
    fn the_longest_periods_do_not_overflow() {
        let forever = OpenFor::new(Duration::MAX, Duration::MAX).unwrap();
        let mut rng = SmallRng::seed_from_u64(7);
        assert_eq!(forever.after(Duration::MAX), Duration::MAX);
        for _ in 0..100 {
            assert!(forever.jittered(Duration::MAX, &mut rng) >= Duration::MAX.mul_f64(0.79));
        }
    }
}
