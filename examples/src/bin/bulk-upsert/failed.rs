use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;
use tower_weir::BoxError;

use crate::{
    options::Options,
    source::{Batch, Record},
};

/// The file that takes what could not be delivered, one batch a line.
#[derive(Debug)]
pub(crate) struct Failed {
    file: Option<Mutex<File>>,
}

#[derive(Serialize)]
struct Letter<'a> {
    batch: usize,
    error: &'a str,
    records: &'a [Record],
}

impl Failed {
    pub(crate) fn create(options: &Options) -> Result<Self, BoxError> {
        let Some(path) = &options.failed else {
            return Ok(Self { file: None });
        };
        if let Some(input) = &options.input
            && same(input, path)
        {
            return Err("--failed would overwrite --input".into());
        }
        let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self {
            file: Some(Mutex::new(file)),
        })
    }

    /// Whether anybody wants to know.
    pub(crate) fn is_wanted(&self) -> bool {
        self.file.is_some()
    }

    /// Writes the line at once: a run may end before its time.
    pub(crate) fn write(&self, batch: &Batch, error: &str) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut line = serde_json::to_vec(&Letter {
            batch: batch.number,
            error,
            records: &batch.records,
        })?;
        line.push(b'\n');
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line)
    }
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}
