use std::collections::HashMap;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::Record;

/// Vectors that a seed makes, without an end. Their coordinates have three
/// digits, so that JSON does not grow much larger than gRPC.
#[derive(Debug)]
pub(super) struct Made {
    dimension: usize,
    random: SmallRng,
    made: usize,
}

impl Made {
    pub(super) fn new(dimension: usize, seed: u64) -> Self {
        Self {
            dimension,
            random: SmallRng::seed_from_u64(seed),
            made: 0,
        }
    }
}

impl Iterator for Made {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.made += 1;
        let mut coordinate = || f32::from(self.random.random_range(-999_i16..=999)) / 1000.0;
        Some(Record {
            id: format!("made-{}", self.made),
            vector: (0..self.dimension).map(|_| coordinate()).collect(),
            metadata: HashMap::new(),
        })
    }
}
