use std::time::Duration;

/// The smoothed round-trip time of successes, once there was one.
///
/// Each new one weighs a tenth: ten calls forget most of what was before, and a
/// single slow one moves it by a tenth. Every success counts here, so it is
/// whole nanoseconds: their way through floats and back costs as much as a lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Srtt(Option<u64>);

/// Ten times as much still fits.
const MOST: u64 = u64::MAX / 16;

impl Srtt {
    #[inline]
    pub(crate) fn add(&mut self, rtt: Duration) {
        let seconds = rtt.as_secs().saturating_mul(1_000_000_000);
        let rtt = seconds.saturating_add(u64::from(rtt.subsec_nanos()));
        let rtt = rtt.min(MOST);
        self.0 = Some(match self.0 {
            Some(srtt) => (srtt * 9 + rtt + 5) / 10,
            None => rtt,
        });
    }

    #[inline]
    pub(crate) fn get(self) -> Option<Duration> {
        self.0.map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rtts: &[Duration]) -> Option<Duration> {
        let mut srtt = Srtt::default();
        rtts.iter().for_each(|rtt| srtt.add(*rtt));
        srtt.get()
    }

    #[test]
    fn the_first_round_trip_counts_whole_and_each_other_a_tenth() {
        let ms = Duration::from_millis;
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[ms(100)]), Some(ms(100)));
        assert_eq!(after(&[ms(100), ms(200)]), Some(ms(110)));
        assert_eq!(after(&[ms(100), ms(200), ms(10)]), Some(ms(100)));
        let nanos = Duration::from_nanos;
        assert_eq!(after(&[nanos(1); 9]), Some(nanos(1)));
    }

    #[test]
    fn a_steady_round_trip_is_what_is_smoothed() {
        for nanos in (0..100).chain([1_234_567, MOST]) {
            let rtt = Duration::from_nanos(nanos);
            assert_eq!(after(&[rtt; 3]), Some(rtt));
        }
    }

    #[test]
    fn a_round_trip_of_any_length_overflows_nothing() {
        let most = Duration::from_nanos(MOST);
        assert_eq!(after(&[Duration::MAX]), Some(most));
        assert_eq!(after(&[Duration::MAX; 3]), Some(most));
        assert_eq!(after(&[Duration::ZERO; 2]), Some(Duration::ZERO));
    }
}
