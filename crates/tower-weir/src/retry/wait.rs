//! How long to wait before a retry.

use std::{fmt, time::Duration};

use crate::outcome::{Hint, HintSource};

/// The jitter on a hint is at most this, however long the hint.
const MAX_SPREAD: Duration = Duration::from_secs(5);

/// The wait before the next attempt, or why there is to be none.
///
/// It is the larger of what the upstream asked for and our `own` backoff. When
/// the hint is the larger (or they are equal), `u` times 10% of it, at most 5 s,
/// is added, in whole milliseconds: upward only, so that clients who were told
/// the same do not come back at the same time, and none of them early. A gRPC
/// pushback is exact: neither our backoff nor jitter changes it (gRFC A6).
///
/// `remaining` is what is left of the request's deadline, if it has one; `u` is
/// a uniform random number in `[0, 1)`.
///
/// # Errors
///
/// [`GiveUp`] if the hint is over `max_hint`, or the wait would reach the
/// deadline: a shorter wait would be a retry that comes earlier than told.
pub fn wait(
    hint: Option<Hint>,
    own: Duration,
    max_hint: Duration,
    remaining: Option<Duration>,
    u: f64,
) -> Result<Duration, GiveUp> {
    let delay = match hint {
        Some(Hint { delay, .. }) if delay > max_hint => {
            return Err(GiveUp::HintTooLong {
                hint: delay,
                max: max_hint,
            });
        }
        Some(Hint {
            delay,
            source: HintSource::Pushback,
        }) => delay,
        Some(Hint { delay, .. }) if delay >= own => delay.saturating_add(spread(delay, u)),
        Some(_) | None => own,
    };
    match remaining {
        Some(remaining) if delay >= remaining => Err(GiveUp::Deadline { delay, remaining }),
        _ => Ok(delay),
    }
}

fn spread(hint: Duration, u: f64) -> Duration {
    let most = (hint / 10).min(MAX_SPREAD);
    let millis = most.as_nanos() as f64 * u.clamp(0.0, 1.0) / 1e6;
    Duration::from_millis(millis as u64)
}

/// Why a retry that was otherwise due is not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GiveUp {
    /// The upstream asked for a longer wait than the caller allows.
    HintTooLong {
        /// What it asked for.
        hint: Duration,
        /// What is allowed.
        max: Duration,
    },
    /// The request's deadline would come first.
    Deadline {
        /// The wait that was due.
        delay: Duration,
        /// What was left of the deadline.
        remaining: Duration,
    },
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HintTooLong { hint, max } => {
                write!(f, "the upstream asks to wait {hint:?}, over {max:?}")
            }
            Self::Deadline { delay, remaining } => {
                write!(f, "a wait of {delay:?} with {remaining:?} to the deadline")
            }
        }
    }
}

impl std::error::Error for GiveUp {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::hint::tests::contract::rows;

    fn hint(delay: Duration, source: HintSource) -> Option<Hint> {
        Some(Hint { delay, source })
    }

    #[test]
    fn the_contract() {
        let rows = rows::<7>(include_str!("../../tests/contract/hint_policy.tsv"));
        assert_eq!(rows.len(), 16);
        for [id, told, own, max_hint, remaining, u, expected] in rows {
            let millis = |text: &str| Duration::from_millis(text.parse().unwrap());
            let optional = |text: &str| (text != "none").then(|| millis(text));
            let told = optional(told).and_then(|told| hint(told, HintSource::RetryAfter));
            let said = match wait(
                told,
                millis(own),
                millis(max_hint),
                optional(remaining),
                u.parse().unwrap(),
            ) {
                Ok(delay) => format!("wait:{}", delay.as_millis()),
                Err(_) => "give_up".to_owned(),
            };
            assert_eq!(said, expected, "{id}");
        }
    }

    #[test]
    fn a_pushback_is_exact_and_bounded_like_any_hint() {
        let own = Duration::from_millis(500);
        let max = Duration::from_secs(60);
        let told = |millis| hint(Duration::from_millis(millis), HintSource::Pushback);
        for millis in [0, 1, 499, 500, 501, 60_000] {
            let exact = Duration::from_millis(millis);
            assert_eq!(wait(told(millis), own, max, None, 0.999), Ok(exact));
        }
        assert_eq!(
            wait(told(60_001), own, max, None, 0.0),
            Err(GiveUp::HintTooLong {
                hint: Duration::from_millis(60_001),
                max,
            })
        );
        assert_eq!(
            wait(told(100), own, max, Some(Duration::from_millis(100)), 0.0),
            Err(GiveUp::Deadline {
                delay: Duration::from_millis(100),
                remaining: Duration::from_millis(100),
            })
        );
    }

    #[test]
    fn a_hint_equal_to_our_backoff_is_spread_like_a_longer_one() {
        let own = Duration::from_millis(500);
        let told = hint(own, HintSource::RetryAfter);
        let spread = Duration::from_millis(525);
        assert_eq!(wait(told, own, Duration::MAX, None, 0.5), Ok(spread));
    }

    #[test]
    fn the_longest_hint_there_is_does_not_overflow() {
        let told = hint(Duration::MAX, HintSource::RetryAfter);
        let max = Duration::MAX;
        assert_eq!(wait(told, Duration::ZERO, max, None, 0.9), Ok(max));
        for (u, seconds) in [(f64::NAN, 10), (-1.0, 10), (2.0, 11), (f64::INFINITY, 11)] {
            let told = hint(Duration::from_secs(10), HintSource::RetryAfter);
            let expected = Ok(Duration::from_secs(seconds));
            assert_eq!(wait(told, Duration::ZERO, max, None, u), expected, "{u}");
        }
    }

    proptest! {
        #[test]
        fn nobody_is_undercut_and_the_jitter_is_bounded(
            told in any::<Duration>(), own in any::<Duration>(),
            remaining in any::<Option<Duration>>(), u in 0.0..1.0,
        ) {
            let hint = hint(told, HintSource::RetryAfter);
            match wait(hint, own, Duration::MAX, remaining, u) {
                Ok(delay) => {
                    let least = told.max(own);
                    prop_assert!(delay >= least);
                    prop_assert!(delay - least <= (told / 10).min(Duration::from_secs(5)));
                    prop_assert!(remaining.is_none_or(|remaining| delay < remaining));
                }
                Err(_) => prop_assert!(remaining.is_some()),
            }
        }
    }
}
