use std::{error::Error, fmt};

/// A share of calls: above 0 and at most 1.
///
/// A ratio of 0 is left out because no threshold can mean it: every window
/// meets it, the window without a single failure too.
///
/// ```
/// use tower_weir::circuit_breaker::Ratio;
///
/// assert_eq!(Ratio::new(0.15)?.get(), 0.15);
/// assert!(Ratio::new(0.0).is_err());
/// assert!(Ratio::new(15.0).is_err());
/// # Ok::<(), tower_weir::circuit_breaker::InvalidRatio>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Ratio(pub(super) f64);

impl Ratio {
    /// Takes a share as a fraction: 0.15 for 15%.
    ///
    /// # Errors
    ///
    /// [`InvalidRatio`] unless 0 < `ratio` <= 1. NaN and the infinities are
    /// refused with the rest.
    pub const fn new(ratio: f64) -> Result<Self, InvalidRatio> {
        if ratio > 0.0 && ratio <= 1.0 {
            Ok(Self(ratio))
        } else {
            Err(InvalidRatio(ratio))
        }
    }

    /// The share as a fraction.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// Whether `part` of `whole` calls is this share or more. No calls at all
    /// are no share.
    pub(crate) fn is_met_by(self, part: u64, whole: u64) -> bool {
        // Division, because it rounds once, to the same number that the
        // threshold's decimal was rounded to. `0.07 * 100.0` is above 7.
        whole > 0 && part as f64 / whole as f64 >= self.0
    }
}

/// A number that is no [`Ratio`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InvalidRatio(f64);

impl fmt::Display for InvalidRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a ratio is above 0 and at most 1, not {}", self.0)
    }
}

impl Error for InvalidRatio {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shares_above_zero_and_up_to_one() {
        for good in [f64::MIN_POSITIVE, 0.15, 1.0] {
            assert_eq!(Ratio::new(good).map(Ratio::get), Ok(good));
        }
        for bad in [0.0, -0.0, -0.15, 1.000_000_1, 15.0, f64::INFINITY] {
            assert_eq!(Ratio::new(bad), Err(InvalidRatio(bad)));
        }
        assert!(Ratio::new(f64::NAN).is_err());
        assert_eq!(
            Ratio::new(15.0).unwrap_err().to_string(),
            "a ratio is above 0 and at most 1, not 15"
        );
    }

    #[test]
    fn every_whole_percentage_is_met_exactly() {
        for percent in 1..=100_u64 {
            let ratio = Ratio::new(percent as f64 / 100.0).unwrap();
            for whole in 1..=600_u64 {
                for part in 0..=whole {
                    assert_eq!(
                        ratio.is_met_by(part, whole),
                        part * 100 >= percent * whole,
                        "{part} of {whole} against {percent}%"
                    );
                }
            }
        }
    }

    #[test]
    fn no_calls_meet_no_ratio() {
        assert!(!Ratio::new(f64::MIN_POSITIVE).unwrap().is_met_by(0, 0));
    }
}
