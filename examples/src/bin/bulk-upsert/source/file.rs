use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    vec,
};

use bytes::Bytes;
use prost::Message;
use serde::Deserialize;
use tower_weir::{BoxError, dead_letter::Letter, outcome::Protocol};
use tower_weir_testkit::proto::UpsertRequest;

use super::Record;

/// What comes before a gRPC message: whether it is compressed, and its length.
const GRPC_PREFIX: usize = 5;

/// The records of a JSONL file, line by line.
#[derive(Debug)]
pub(super) struct Lines {
    file: BufReader<File>,
    name: String,
    number: usize,
    line: String,
    /// Those of a line with several.
    rest: vec::IntoIter<Record>,
}

/// The body of a request.
#[derive(Deserialize)]
struct Document {
    records: Vec<Record>,
}

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            // it is read twice
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Self {
            file: BufReader::new(file),
            name: path.display().to_string(),
            number: 0,
            line: String::new(),
            rest: Vec::new().into_iter(),
        })
    }

    fn read(&mut self) -> Result<Option<Vec<Record>>, BoxError> {
        self.line.clear();
        self.number += 1;
        if self.file.read_line(&mut self.line)? == 0 {
            return Ok(None);
        }
        let line = self.line.trim();
        if line.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let records = match serde_json::from_str(line) {
            Ok(record) => vec![record],
            // of the two errors, that of the record is the one to tell
            Err(error) => match serde_json::from_str::<Letter>(line) {
                Ok(letter) => records_of(&letter)?,
                Err(_) => return Err(error.into()),
            },
        };
        for Record { id, vector, .. } in &records {
            if !vector.iter().all(|coordinate| coordinate.is_finite()) {
                return Err(format!("a coordinate of `{id}` is out of range").into());
            }
        }
        Ok(Some(records))
    }
}

impl Iterator for Lines {
    type Item = Result<Record, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.rest.next() {
                return Some(Ok(record));
            }
            match self.read() {
                Ok(Some(records)) => self.rest = records.into_iter(),
                Ok(None) => return None,
                Err(error) => {
                    let (name, number) = (&self.name, self.number);
                    return Some(Err(format!("{name}, line {number}: {error}").into()));
                }
            }
        }
    }
}

/// The records of a request that failed once.
fn records_of(letter: &Letter) -> Result<Vec<Record>, BoxError> {
    let body: Bytes = letter.request()?.into_body();
    if Protocol::of(&letter.headers) != Protocol::Grpc {
        let document: Document = serde_json::from_slice(&body)?;
        return Ok(document.records);
    }
    let message = body.get(GRPC_PREFIX..).ok_or("a gRPC message cut short")?;
    let records = UpsertRequest::decode(message)?.records.into_iter();
    Ok(records
        .map(|record| Record {
            id: record.id,
            vector: record.vector,
            metadata: record.metadata,
        })
        .collect())
}
