//! Where the batches come from.

mod file;
mod made;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde::{Deserialize, Serialize};
use tower_weir::BoxError;

use self::{file::Lines, made::Made};
use crate::options::Options;

/// Batches of made vectors, where the options do not say.
const MADE_BATCHES: usize = 2000;

/// One vector and what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) vector: Vec<f32>,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub(crate) metadata: HashMap<String, String>,
}

/// What is sent at once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    /// Counted from 1.
    pub(crate) number: usize,
    pub(crate) records: Vec<Record>,
}

/// Gives the batches out one by one.
#[derive(Debug)]
pub(crate) struct Source {
    from: From,
    batch_size: usize,
    batches: usize,
    records: usize,
    given: usize,
    fingerprint: String,
}

#[derive(Debug)]
enum From {
    Made(Made),
    File(Lines),
}

impl Source {
    /// # Errors
    /// When the input cannot be read, or one of its lines is no record. All of
    /// them are looked at before anything is sent.
    pub(crate) fn open(options: &Options) -> Result<Self, BoxError> {
        let batch_size = options.batch_size.get();
        let (from, there, fingerprint) = match &options.input {
            None => {
                let (dimension, seed) = (options.dimension, options.seed);
                let made = Made::new(dimension.get(), seed);
                let batches = options.batches.unwrap_or(MADE_BATCHES);
                let fingerprint = format!("{dimension} of seed {seed}");
                let there = batches.saturating_mul(batch_size);
                (From::Made(made), there, fingerprint)
            }
            Some(path) => {
                let (records, fingerprint) = look_through(path)?;
                (From::File(open(path)?), records, fingerprint)
            }
        };
        let most = options
            .batches
            .map(|batches| batches.saturating_mul(batch_size));
        let records = there.min(most.unwrap_or(usize::MAX));
        Ok(Self {
            from,
            batch_size,
            batches: records.div_ceil(batch_size),
            records,
            given: 0,
            fingerprint,
        })
    }

    /// What tells this input from others, by what is in it. Two files of the same
    /// records have the same.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How many batches there are in all.
    pub(crate) fn batches(&self) -> usize {
        self.batches
    }

    /// How many records there are in all.
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// # Errors
    /// When the input has changed since it was opened.
    pub(crate) fn next(&mut self) -> Result<Option<Batch>, BoxError> {
        let size = self.batch_size.min(self.records - self.given);
        if size == 0 {
            return Ok(None);
        }
        let records: Vec<_> = match &mut self.from {
            From::Made(made) => made.take(size).collect(),
            From::File(lines) => lines.take(size).collect::<Result<_, _>>()?,
        };
        if records.len() < size {
            return Err("the input has become shorter".into());
        }
        let number = self.given / self.batch_size + 1;
        self.given += size;
        Ok(Some(Batch { number, records }))
    }
}

fn open(path: &Path) -> Result<Lines, BoxError> {
    Lines::open(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// How many records there are, and what tells them from others.
fn look_through(path: &Path) -> Result<(usize, String), BoxError> {
    let (mut records, mut sum) = (0, Sum::default());
    for record in open(path)? {
        sum.add(&record?);
        records += 1;
    }
    Ok((records, format!("{records} records of sum {:016x}", sum.0)))
}

/// FNV-1a in 64 bits: it is not to withstand malice, but to notice that an input was
/// edited, or is another one.
struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
    fn add(&mut self, record: &Record) {
        self.text(&record.id);
        self.bytes(&record.vector.len().to_le_bytes());
        for coordinate in &record.vector {
            self.bytes(&coordinate.to_le_bytes());
        }
        let pairs: BTreeMap<_, _> = record.metadata.iter().collect();
        self.bytes(&pairs.len().to_le_bytes());
        for (key, value) in pairs {
            self.text(key);
            self.text(value);
        }
    }

    fn text(&mut self, text: &str) {
        self.bytes(&text.len().to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests;
