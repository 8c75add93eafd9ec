//! Seedable streams of random numbers, one for each request.
//!
//! The generator is one that its authors keep the same on every platform and in
//! every release, and the way from its bits to a number is our own: a seed
//! replays the same run wherever it was noted down.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};

/// Where the random numbers of one layer begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u64);

impl Seed {
    /// A seed that nobody can know beforehand.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for Seed {
    fn from(seed: u64) -> Self {
        Self(seed)
    }
}

/// Hands out [`Stream`]s, numbered in the order in which they are asked for.
#[derive(Debug)]
pub(crate) struct Streams {
    origin: u64,
    given: AtomicU64,
}

impl Streams {
    pub(crate) fn new(seed: Seed) -> Self {
        Self {
            // Neighbouring seeds must lead far apart: were streams counted from
            // the seed itself, the second of seed 1 would be the first of seed 2.
            origin: Xoshiro256PlusPlus::seed_from_u64(seed.0).next_u64(),
            given: AtomicU64::new(0),
        }
    }

    /// The next stream. It never equals another of the same `Streams`.
    pub(crate) fn stream(&self) -> Stream {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        Stream(Xoshiro256PlusPlus::seed_from_u64(
            self.origin.wrapping_add(number),
        ))
    }
}

/// The random numbers of one request.
#[derive(Debug)]
pub(crate) struct Stream(Xoshiro256PlusPlus);

impl Stream {
    /// The next number, uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        const STEPS: u64 = 1 << f64::MANTISSA_DIGITS;
        let bits = self.0.next_u64() >> (u64::BITS - f64::MANTISSA_DIGITS);
        bits as f64 / STEPS as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn draw(stream: &mut Stream, count: usize) -> Vec<u64> {
        (0..count).map(|_| stream.uniform().to_bits()).collect()
    }

    #[test]
    fn a_seed_replays_its_streams_in_order() {
        let (one, two) = (Streams::new(7.into()), Streams::new(7.into()));
        for _ in 0..100 {
            assert_eq!(draw(&mut one.stream(), 10), draw(&mut two.stream(), 10));
        }
    }

    #[test]
    fn a_seed_means_the_same_numbers_on_every_platform() {
        let streams = Streams::new(42.into());
        let first: Vec<f64> = (0..3).map(|_| streams.stream().uniform()).collect();
        // Computed apart, from the reference xoshiro256++ and SplitMix64.
        let expected = [0.3114591030970857, 0.4649393077288768, 0.10986255335683981];
        assert_eq!(first, expected);
    }

    #[test]
    fn no_two_streams_begin_alike() {
        let seeds = [0, 1, 2, u64::MAX];
        let seen: HashSet<_> = seeds
            .into_iter()
            .flat_map(|seed| {
                let streams = Streams::new(seed.into());
                (0..1_000).map(move |_| draw(&mut streams.stream(), 2))
            })
            .collect();
        assert_eq!(seen.len(), 4 * 1_000);
    }

    #[test]
    fn seeds_of_the_system_differ() {
        assert_ne!(Seed::random(), Seed::random());
    }

    #[test]
    fn the_first_numbers_of_many_streams_are_uniform() {
        const BINS: usize = 50;
        let streams = Streams::new(1.into());
        let mut bins = [0; BINS];
        for _ in 0..100_000 {
            let u = streams.stream().uniform();
            assert!((0.0..1.0).contains(&u), "{u}");
            bins[(u * BINS as f64) as usize] += 1;
        }
        // Chi-square with 49 degrees of freedom: 85.4 is passed once in a thousand.
        let expected = 100_000.0 / BINS as f64;
        let chi: f64 = bins
            .iter()
            .map(|&n| (f64::from(n) - expected).powi(2) / expected)
            .sum();
        assert!(chi < 85.4, "{chi}");
    }
}
