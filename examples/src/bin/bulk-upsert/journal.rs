use std::{
    collections::HashSet,
    fmt, fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tower_weir::{BoxError, dead_letter::file::LineFile};

use crate::{
    options::Options,
    source::{Batch, Source},
};

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

/// The first line: what the numbers of the batches stand for, and where they went.
#[derive(Debug, Serialize, Deserialize)]
struct Heading {
    /// What people call the input: the same under another name is the same.
    source: String,
    content: String,
    batch_size: usize,
    index: Index,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Index {
    Url(String),
    /// The one inside the program, which is another one each time; for trials.
    Inner {
        grpc: bool,
    },
}

#[derive(Serialize, Deserialize)]
struct Line {
    batch: usize,
    ids: Vec<String>,
}

impl Journal {
    /// # Errors
    /// When the file has entries and is not to be gone on with, or is of another
    /// input or of another index.
    pub(crate) fn open(options: &Options, source: &Source) -> Result<Self, BoxError> {
        let Some(path) = &options.journal else {
            return Ok(Self {
                file: None,
                delivered: HashSet::new(),
            });
        };
        let mut file = LineFile::open(path)?;
        let heading = Heading::of(options, source);
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
    fn of(options: &Options, source: &Source) -> Self {
        let name = options.input.as_deref().and_then(Path::file_name);
        let name = name.map(|name| name.to_string_lossy().into_owned());
        let index = match options.endpoint() {
            Some(endpoint) => Index::Url(endpoint.to_string()),
            None => Index::Inner { grpc: options.grpc },
        };
        Self {
            source: name.unwrap_or_else(|| "made vectors".to_owned()),
            content: source.fingerprint().to_owned(),
            batch_size: options.batch_size.get(),
            index,
        }
    }

    /// What a journal of this one tells a run of the `other`.
    fn differs(&self, other: &Self) -> Option<String> {
        let Self {
            source,
            content,
            batch_size,
            index,
        } = self;
        if *content != other.content {
            let (name, sum) = (&other.source, &other.content);
            return Some(format!(
                "another input: {source}, {content}, and not {name}, {sum}"
            ));
        }
        if *batch_size != other.batch_size {
            let size = other.batch_size;
            return Some(format!(
                "batches of {batch_size} records, and not of {size}"
            ));
        }
        let differs = *index != other.index;
        differs.then(|| format!("another index: {index}, and not {}", other.index))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url(url) => url,
            Self::Inner { grpc: false } => "the one inside the program",
            Self::Inner { grpc: true } => "the one inside the program, by gRPC",
        })
    }
}

/// The numbers of the batches in a journal.
fn read(path: &Path, heading: &Heading) -> Result<HashSet<usize>, BoxError> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    let of: Heading = serde_json::from_str(lines.next().unwrap_or_default())
        .map_err(|error| format!("its first line does not say what it is of: {error}"))?;
    if let Some(other) = of.differs(heading) {
        return Err(format!("it is of {other}").into());
    }
    let number = |line| serde_json::from_str(line).map(|line: Line| line.batch);
    Ok(lines.map(number).collect::<Result<_, _>>()?)
}
