use std::{error::Error, fmt, time::Duration};

use rand::Rng;
use rand_distr::{Distribution, LogNormal};

/// How long a request keeps its slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceTime {
    mean: Duration,
    spread: Option<LogNormal<f64>>,
}

impl ServiceTime {
    /// The same time for every request.
    pub const fn constant(time: Duration) -> Self {
        Self {
            mean: time,
            spread: None,
        }
    }

    /// Log-normal times of this mean, whose standard deviation is `cv` times
    /// the mean; a `cv` of 0 is [`ServiceTime::constant`].
    ///
    /// # Errors
    /// When `cv` is negative or not finite, or the mean is zero and `cv` is not.
    pub fn log_normal(mean: Duration, cv: f64) -> Result<Self, InvalidServiceTime> {
        if !cv.is_finite() || cv < 0.0 {
            return Err(InvalidServiceTime(
                "the coefficient of variation must be finite and not negative",
            ));
        }
        if cv == 0.0 {
            return Ok(Self::constant(mean));
        }
        let spread = LogNormal::from_mean_cv(mean.as_secs_f64(), cv)
            .map_err(|_| InvalidServiceTime("a mean of zero has no spread"))?;
        Ok(Self {
            mean,
            spread: Some(spread),
        })
    }

    /// The mean.
    pub const fn mean(&self) -> Duration {
        self.mean
    }

    /// Draws one.
    pub fn sample<R: Rng + ?Sized>(&self, rng: &mut R) -> Duration {
        self.spread.map_or(self.mean, |spread| {
            Duration::try_from_secs_f64(spread.sample(rng)).unwrap_or(Duration::MAX)
        })
    }
}

/// Why a service time cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidServiceTime(&'static str);

impl fmt::Display for InvalidServiceTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for InvalidServiceTime {}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const MEAN: Duration = Duration::from_millis(20);

    #[test]
    fn a_constant_time_draws_nothing_else() {
        let time = ServiceTime::log_normal(MEAN, 0.0).unwrap();
        assert_eq!(time, ServiceTime::constant(MEAN));
        assert_eq!(time.sample(&mut StdRng::seed_from_u64(1)), MEAN);
    }

    #[test]
    fn log_normal_times_have_their_mean_and_spread() {
        let time = ServiceTime::log_normal(MEAN, 0.5).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let draws: Vec<f64> = (0..20_000)
            .map(|_| time.sample(&mut rng).as_secs_f64())
            .collect();
        let count = draws.len() as f64;
        let mean = draws.iter().sum::<f64>() / count;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        // a standard error is 0.35% of the mean, and about 1% of the spread
        assert!((mean / 0.02 - 1.0).abs() < 0.015, "{mean}");
        assert!((variance.sqrt() / 0.01 - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for cv in [-0.1, f64::NAN, f64::INFINITY] {
            ServiceTime::log_normal(MEAN, cv).unwrap_err();
        }
        ServiceTime::log_normal(Duration::ZERO, 0.3).unwrap_err();
    }
}
