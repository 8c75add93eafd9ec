use std::{error::Error, fmt, time::Duration};

use rand::{Rng, RngExt};

use super::Ratio;

/// How long an open circuit refuses before it lets a probe through.
///
/// The first time `first`; twice as long with each failed probe, up to `cap`, or
/// up to [`refused_cap`](Self::refused_cap) if the probe was refused; `first`
/// again once the circuit has closed. Then jitter, drawn anew each time, so that
/// clients which saw the same outage do not probe together.
///
/// The default is 1 s up to 15 s, or 2 s, and 20% either way. A short first
/// period is what makes a circuit cheap that opened by mistake, and doubling is
/// what spares an upstream that stays down; a cap of 15 s bounds how late its
/// return is seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenFor {
    pub(super) first: Duration,
    pub(super) cap: Duration,
    pub(super) refused_cap: Option<Duration>,
    pub(super) jitter: Option<Ratio>,
}

impl Default for OpenFor {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            cap: Duration::from_secs(15),
            refused_cap: Some(Duration::from_secs(2)),
            jitter: Some(Ratio(0.2)),
        }
    }
}

impl OpenFor {
    /// Doubles from `first` to `cap`, after refused probes to 2 s at most, with
    /// jitter of 20%. Give the same value
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

    /// The longest period after a probe that was refused (503, UNAVAILABLE; where
    /// they count, 429 and its kind), if that is less than the cap. It is never
    /// less than the first period. Of several probes, the one that decided counts.
    /// `None` makes no difference between failures.
    ///
    /// Who refuses a probe is there, and probably full rather than down. Clients
    /// who compete for a full upstream look dead to each other, and the circuit of
    /// one may be open still when the others are done: with periods up to 5 s, 16
    /// clients of 150 requests took up to 20% longer than without circuits, most of
    /// it at the end, when the last ones waited and the upstream was idle. With 2 s
    /// it is 7%. The price is a probe in 2 s, answered without work.
    ///
    /// Default: 2 s.
    #[must_use]
    pub fn refused_cap(mut self, cap: impl Into<Option<Duration>>) -> Self {
        self.refused_cap = cap.into();
        self
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

    /// The period, before jitter, that follows `last` when a probe was refused,
    /// or has failed otherwise.
    pub(crate) fn after(&self, last: Duration, refused: bool) -> Duration {
        let cap = match self.refused_cap {
            Some(cap) if refused => cap.clamp(self.first, self.cap),
            _ => self.cap,
        };
        // Both bounds: `last` may have been reckoned under another config.
        last.saturating_mul(2).clamp(self.first, cap)
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

    /// The periods, in seconds, when a probe is refused or not.
    fn periods(open_for: OpenFor, refused: &[bool]) -> Vec<u64> {
        let mut period = open_for.first();
        let mut seconds = vec![period.as_secs()];
        for refused in refused {
            period = open_for.after(period, *refused);
            seconds.push(period.as_secs());
        }
        seconds
    }

    #[test]
    fn doubles_to_the_cap() {
        let seconds = periods(OpenFor::default(), &[false; 5]);
        assert_eq!(seconds, [1, 2, 4, 8, 15, 15]);
    }

    #[test]
    fn doubles_to_a_lower_cap_while_probes_are_refused() {
        let default = OpenFor::default();
        assert_eq!(periods(default, &[true; 3]), [1, 2, 2, 2]);
        let mixed = [false, false, true, true, false];
        assert_eq!(periods(default, &mixed), [1, 2, 4, 2, 2, 4]);
        assert_eq!(periods(default.refused_cap(None), &[true; 3]), [1, 2, 4, 8]);
        let cap = |seconds: u32| periods(default.refused_cap(seconds * SECOND), &[true; 5]);
        assert_eq!(cap(0), [1; 6]);
        assert_eq!(cap(60), [1, 2, 4, 8, 15, 15]);
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
        assert_eq!(forever.after(Duration::MAX, false), Duration::MAX);
        assert_eq!(forever.after(Duration::MAX, true), Duration::MAX);
        for _ in 0..100 {
            assert!(forever.jittered(Duration::MAX, &mut rng) >= Duration::MAX.mul_f64(0.79));
        }
    }
}
