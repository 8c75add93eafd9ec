use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tower_weir::{BoxError, dead_letter::file::LineFile};

/// What has been sent, under which name, by this replay and by those before.
///
/// A name is on the disk as `sending` before its request goes, and as `sent` when
/// its result is known. A name that is only `sending` may or may not have
/// arrived: it is in doubt, and counts as sent.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: LineFile,
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    Sending,
    Delivered,
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mark: Mark,
    /// Whether this replay made it.
    ours: bool,
}

/// What the ledger says of a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Known {
    No,
    /// This replay has taken it already.
    Ours,
    /// An earlier one has delivered it.
    Delivered,
    /// An earlier one has sent it, and it failed: its letter is in the other file.
    Failed,
    /// An earlier one was killed over it.
    InDoubt,
}

#[derive(Serialize, Deserialize)]
struct Line {
    mark: Mark,
    name: String,
}

impl Ledger {
    /// # Errors
    /// When the file is none of ours, or another replay works with it.
    pub(crate) fn open(path: &Path) -> Result<Self, BoxError> {
        let file = LineFile::open(path)?;
        let mut entries = HashMap::new();
        for (number, line) in (1..).zip(fs::read_to_string(path)?.lines()) {
            let told = |error| format!("{}, line {number}: {error}", path.display());
            let Line { mark, name } = serde_json::from_str(line).map_err(told)?;
            entries.insert(name, Entry { mark, ours: false });
        }
        Ok(Self { file, entries })
    }

    pub(crate) fn knows(&self, name: &str) -> Known {
        match self.entries.get(name) {
            None => Known::No,
            Some(entry) if entry.ours => Known::Ours,
            Some(entry) => match entry.mark {
                Mark::Sending => Known::InDoubt,
                Mark::Delivered => Known::Delivered,
                Mark::Failed => Known::Failed,
            },
        }
    }

    /// It will be sent: to be called, and to succeed, before.
    pub(crate) fn sending(&mut self, name: &str) -> Result<(), BoxError> {
        self.write(name, Mark::Sending)?;
        // The machine may fail as well as the process.
        Ok(self.file.sync()?)
    }

    /// It was sent, and this came of it.
    pub(crate) fn sent(&mut self, name: &str, delivered: bool) -> Result<(), BoxError> {
        let mark = if delivered {
            Mark::Delivered
        } else {
            Mark::Failed
        };
        self.write(name, mark)
    }

    fn write(&mut self, name: &str, mark: Mark) -> Result<(), BoxError> {
        let name = name.to_owned();
        let line = Line { mark, name };
        self.file.append(serde_json::to_vec(&line)?)?;
        self.entries.insert(line.name, Entry { mark, ours: true });
        Ok(())
    }
}

/// A file beside another.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
