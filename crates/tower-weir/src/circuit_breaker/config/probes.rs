use super::Ratio;

/// What a half-open circuit asks of its probes before it closes.
///
/// The default is [`Probes::all(2)`](Probes::all), one in flight: a single good
/// answer may be luck, and one call at a time is the least load that can show a
/// recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    calls: u32,
    needed: u32,
    in_flight: u32,
}

impl Default for Probes {
    fn default() -> Self {
        Self::all(2)
    }
}

impl Probes {
    /// Closes after `successes` good probes; the first bad one reopens. 0 reads
    /// as 1.
    pub fn all(successes: u32) -> Self {
        Self::ratio(successes, Ratio(1.0))
    }

    /// Lets `calls` probes through and closes if at least `good` of them
    /// succeed. 0 calls read as 1.
    ///
    /// It is decided as soon as the rest of the probes cannot change it: of 10
    /// at 0.5, the fifth good one closes and the sixth bad one reopens.
    pub fn ratio(calls: u32, good: Ratio) -> Self {
        let calls = calls.max(1);
        // The product may be off by its rounding, so it only says where to look.
        let near = (good.get() * f64::from(calls)) as u32;
        let needed = (near.saturating_sub(1).max(1)..calls)
            .find(|needed| good.is_met_by(u64::from(*needed), u64::from(calls)))
            .unwrap_or(calls);
        Self {
            calls,
            needed,
            in_flight: 1,
        }
    }

    /// How many probes may be in flight at once. Default: 1; 0 reads as 1. No
    /// more are sent than the decision still needs.
    #[must_use]
    pub fn in_flight(mut self, probes: u32) -> Self {
        self.in_flight = probes.max(1);
        self
    }

    /// How many more may be sent, with `settled` probes done and `in_flight`
    /// under way.
    pub(crate) fn room(&self, settled: u32, in_flight: u32) -> u32 {
        let wanted = self.calls.saturating_sub(settled);
        wanted.min(self.in_flight).saturating_sub(in_flight)
    }

    /// Whether to close, once that is certain.
    pub(crate) fn decide(&self, good: u32, bad: u32) -> Option<bool> {
        if good >= self.needed {
            Some(true)
        } else if bad > self.calls - self.needed {
            Some(false)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_probes_read_as_one() {
        let one = Probes::all(0);
        assert_eq!(one.room(0, 0), 1);
        assert_eq!(one.decide(0, 0), None);
        assert_eq!(one.decide(1, 0), Some(true));
        assert_eq!(Probes::all(2).in_flight(0).room(0, 0), 1);
    }

    #[test]
    fn needed_is_the_least_number_that_meets_the_share() {
        for calls in 1..=200_u32 {
            for percent in 1..=100_u32 {
                let share = Ratio::new(f64::from(percent) / 100.0).unwrap();
                let exact = (percent * calls).div_ceil(100);
                assert_eq!(
                    Probes::ratio(calls, share).needed,
                    exact,
                    "{percent}% of {calls}"
                );
            }
        }
        let most = Probes::ratio(u32::MAX, Ratio(1.0));
        assert_eq!((most.calls, most.needed), (u32::MAX, u32::MAX));
    }

    #[test]
    fn decides_as_soon_as_it_is_certain() {
        let half = Probes::ratio(10, Ratio(0.5));
        assert_eq!(half.decide(4, 5), None);
        assert_eq!(half.decide(5, 0), Some(true));
        assert_eq!(half.decide(0, 6), Some(false));
        let all = Probes::all(2);
        assert_eq!(all.decide(1, 0), None);
        assert_eq!(all.decide(2, 0), Some(true));
        assert_eq!(all.decide(1, 1), Some(false));
    }

    #[test]
    fn sends_no_more_than_the_decision_needs() {
        let three = Probes::all(5).in_flight(3);
        assert_eq!(three.room(0, 0), 3);
        assert_eq!(three.room(0, 3), 0);
        assert_eq!(three.room(3, 0), 2);
        assert_eq!(three.room(3, 2), 0);
        assert_eq!(three.room(4, 3), 0);
    }
}
