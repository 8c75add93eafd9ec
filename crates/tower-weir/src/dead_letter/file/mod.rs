//! Letters in a file, one JSON object a line.
//!
//! ```
//! # async fn run() -> Result<(), tower_weir::BoxError> {
//! use std::num::NonZeroU64;
//! use tower_weir::dead_letter::{DeadLetterLayer, file::{Fsync, JsonlFile, Letters, files}};
//!
//! let file = JsonlFile::options()
//!     .fsync(Fsync::EveryLetter)
//!     .rotate_at(NonZeroU64::new(256 << 20))
//!     .open("letters.jsonl")?;
//! let dead_letters = DeadLetterLayer::new(file);
//!
//! // Later, here or elsewhere:
//! for file in files("letters.jsonl".as_ref())? {
//!     for letter in Letters::open(file)? {
//!         let letter = letter?;
//!         println!("{} {}: {:?}", letter.method, letter.uri, letter.result);
//!     }
//! }
//! # drop(dead_letters);
//! # Ok(())
//! # }
//! ```
//!
//! A line, folded:
//!
//! ```json
//! {"v":1,"at":"2026-11-22T06:10:28.123Z","method":"POST","uri":"http://index.internal/upsert",
//!  "headers":[["content-type","application/json"],["idempotency-key","7"]],
//!  "left_out":["authorization"],"body":{"text":"{\"id\":7}"},
//!  "attempts":[{"at":"2026-11-22T06:10:27.900Z","host":"index.internal","took_ms":3,
//!               "cause":"503","delay_ms":120},
//!              {"at":"2026-11-22T06:10:28.023Z","host":"index.internal","took_ms":100,
//!               "cause":"503"}],
//!  "ending":"the retries were used up","processed":"maybe","result":{"response":{"status":503}}}
//! ```
//!
//! A body that is no UTF-8 is `{"base64":".."}`, and one that could not be had is
//! `{"absent":"too_long"}` (the words are those of
//! [`Absent`](super::Absent::as_str)). A result is a `response`, with
//! `grpc_status` and `grpc_message` where there are such, an `error` with its
//! `fault` and `text`, or `"cancelled"`.
//!
//! # What survives what
//!
//! A letter that counts as written survives the process, killed at any moment;
//! with [`Fsync::EveryLetter`], the default, also the machine's failure. What
//! was being written when the process was killed is mended by the next one that
//! opens the file, and passed over by [`Letters`].
//!
//! Others may put the file aside too, or delete it: the next letter goes to a new
//! one in its place.

mod json;
mod lines;
mod names;
mod read;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt, io,
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    thread,
};

use tokio::sync::{mpsc, oneshot};

use self::writer::{Order, Receipt, Writer};
pub use self::{
    lines::{LineFile, OpenError},
    names::files,
    read::{Letters, LineError},
};
use super::{DeadLetterSink, Letter};
use crate::BoxError;

/// When letters are made to reach the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fsync {
    /// When the operating system likes: a failure of the machine, but not of the
    /// process, can lose them.
    Never,
    /// After so many, and on a flush.
    Every(NonZeroU32),
    /// Before any of them counts as written. Those that come together are synced
    /// together. The default.
    #[default]
    EveryLetter,
}

/// A sink that appends letters to a file.
///
/// It writes on a thread of its own. Clones write to the same file; when the last
/// of them is gone, what was given to them is written, and the file is closed.
#[derive(Clone)]
pub struct JsonlFile {
    orders: mpsc::Sender<Order>,
    path: PathBuf,
}

/// Sets up a [`JsonlFile`].
#[derive(Clone, Debug)]
pub struct FileOptions {
    fsync: Fsync,
    rotate_at: Option<NonZeroU64>,
    queue: usize,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            fsync: Fsync::default(),
            rotate_at: None,
            queue: 256,
        }
    }
}

impl FileOptions {
    /// When letters are made to reach the disk. Default:
    /// [`Fsync::EveryLetter`].
    #[must_use]
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.fsync = fsync;
        self
    }

    /// From how many bytes on the file is [put aside](LineFile::rotate) before
    /// the next letter. A letter longer than that has a file of its own. Nothing
    /// is ever deleted. While the file cannot be put aside, it grows. Default:
    /// never.
    #[must_use]
    pub fn rotate_at(mut self, bytes: impl Into<Option<NonZeroU64>>) -> Self {
        self.rotate_at = bytes.into();
        self
    }

    /// How many letters may wait for the thread, at least 1; those beyond wait
    /// where they come from. Default 256.
    #[must_use]
    pub fn queue(mut self, letters: usize) -> Self {
        self.queue = letters.clamp(1, 1 << 20);
        self
    }

    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// When somebody else writes to it, it cannot be had, or there is no thread
    /// to be had.
    pub fn open(self, path: impl Into<PathBuf>) -> Result<JsonlFile, OpenError> {
        let path = path.into();
        let writer = Writer {
            file: LineFile::open(&path)?,
            fsync: self.fsync,
            rotate_at: self.rotate_at,
            unsynced: 0,
        };
        let (orders, taken) = mpsc::channel(self.queue);
        thread::Builder::new()
            .name("dead-letters".to_owned())
            .spawn(move || writer.run(taken))
            .map_err(|error| OpenError::Io(path.clone(), error))?;
        Ok(JsonlFile { orders, path })
    }
}

impl JsonlFile {
    /// Opens the file, or makes it, with the default options.
    ///
    /// # Errors
    ///
    /// See [`FileOptions::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        Self::options().open(path)
    }

    /// The default options.
    pub fn options() -> FileOptions {
        FileOptions::default()
    }

    /// Writes what was given to it, closes the file, and gives up the lock. What
    /// comes afterwards is refused.
    ///
    /// # Errors
    ///
    /// Those of the disk. The file is closed all the same.
    pub async fn close(&self) -> io::Result<()> {
        self.order(Order::Close).await
    }

    async fn order(&self, order: impl FnOnce(Receipt) -> Order) -> io::Result<()> {
        let (receipt, told) = oneshot::channel();
        let closed = || io::Error::other("the file is closed");
        let sent = self.orders.send(order(receipt)).await;
        sent.map_err(|_| closed())?;
        told.await.map_err(|_| closed())?
    }
}

impl DeadLetterSink for JsonlFile {
    async fn deliver(&self, letter: Letter) -> Result<(), BoxError> {
        let letter = Box::new(letter);
        let write = |receipt| Order::Write(letter, receipt);
        Ok(self.order(write).await?)
    }

    async fn flush(&self) -> Result<(), BoxError> {
        Ok(self.order(Order::Flush).await?)
    }
}

impl fmt::Debug for JsonlFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonlFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
