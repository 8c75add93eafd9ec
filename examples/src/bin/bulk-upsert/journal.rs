use std::{
    collections::HashSet,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tower_weir::{BoxError, dead_letter::file::LineFile};

use crate::{options::Options, source::Batch};

/// What has been delivered, written down batch by batch, for a run that goes on
/// after this one was killed.
///
/// A batch is written down after its delivery and before the next one of the same
/// worker: what a run is killed over may be delivered and not written down, and is
/// sent again.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Option<Mutex<LineFile>>,
    /// By runs before this one.
    delivered: HashSet<usize>,
}

/// The first line: what the numbers of the batches stand for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Heading {
    source: String,
    batch_size: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    batch: usize,
    ids: Vec<String>,
}

impl Journal {
    /// # Errors
    /// When the file has entries and is not to be gone on with, or is of another
    /// input.
    pub(crate) fn open(options: &Options) -> Result<Self, BoxError> {
        let Some(path) = &options.journal else {
            return Ok(Self {
                file: None,
                delivered: HashSet::new(),
            });
        };
        let mut file = LineFile::open(path)?;
        let heading = Heading::of(options)?;
        let mut delivered = HashSet::new();
        if file.length() == 0 {
            file.append(serde_json::to_vec(&heading)?)?;
        } else if options.resume {
            delivered =
                read(path, &heading).map_err(|error| format!("{}: {error}", path.display()))?;
        } else {
            let path = path.display();
            return Err(format!("{path}: of an earlier run: --resume goes on with it").into());
        }
        Ok(Self {
            file: Some(Mutex::new(file)),
            delivered,
        })
    }

    /// Whether a run before this one has delivered the batch.
    pub(crate) fn has(&self, batch: &Batch) -> bool {
        self.delivered.contains(&batch.number)
    }

    /// Writes down that the batch has been delivered.
    pub(crate) fn delivered(&self, batch: &Batch) -> Result<(), BoxError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let ids = batch.records.iter().map(|record| record.id.clone());
        let line = serde_json::to_vec(&Line {
            batch: batch.number,
            ids: ids.collect(),
        })?;
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(file.append(line)?)
    }
}

impl Heading {
    fn of(options: &Options) -> Result<Self, BoxError> {
        let source = match &options.input {
            Some(path) => {
                let bytes = fs::metadata(path)?.len();
                format!("{}, {bytes} bytes", fs::canonicalize(path)?.display())
            }
            None => format!("made, {} of seed {}", options.dimension, options.seed),
        };
        Ok(Self {
            source,
            batch_size: options.batch_size.get(),
        })
    }
}

/// The numbers of the batches in a journal.
fn read(path: &Path, heading: &Heading) -> Result<HashSet<usize>, BoxError> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    let of: Heading = serde_json::from_str(lines.next().unwrap_or_default())?;
    if of != *heading {
        let Heading { source, batch_size } = of;
        return Err(format!("it is of another input: {source}, {batch_size} a batch").into());
    }
    let number = |line| serde_json::from_str(line).map(|line: Line| line.batch);
    Ok(lines.map(number).collect::<Result<_, _>>()?)
}
