//! Where the batches come from.

mod file;
mod made;

use std::{collections::HashMap, path::Path};

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
        let (from, there) = match &options.input {
            None => {
                let made = Made::new(options.dimension.get(), options.seed);
                let batches = options.batches.unwrap_or(MADE_BATCHES);
                (From::Made(made), batches.saturating_mul(batch_size))
            }
            Some(path) => (From::File(open(path)?), count(path)?),
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
        })
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

fn count(path: &Path) -> Result<usize, BoxError> {
    let mut records = 0;
    for record in open(path)? {
        record?;
        records += 1;
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
