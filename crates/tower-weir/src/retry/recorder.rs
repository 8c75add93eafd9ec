use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::{NotReplayable, ReplayHandle, wait::GiveUp};
use crate::outcome::{Outcome, Processed, Repeat};

/// A request extension: what becomes of the request, for a layer further out.
///
/// Who puts it into a request learns from it what the result alone does not
/// tell: the attempts that were made, why there were no more of them, and the
/// body, which the attempts have consumed. That is what a dead letter is made
/// of, and what a failover must know before it sends a request elsewhere.
///
/// [`RetryLayer`](super::RetryLayer) takes it out of the request, keeps the
/// body's handle in it (or takes the body from there, where a layer further out
/// has recorded it already) and writes down each attempt. Clones are of one
/// record. Not for services that are not HTTP: their requests carry nothing.
///
/// ```
/// use tower_weir::retry::Recorder;
///
/// let recorder = Recorder::new();
/// let mut request = http::Request::post("http://index.internal/upsert").body(())?;
/// request.extensions_mut().insert(recorder.clone());
/// // After the call:
/// assert!(recorder.attempts().is_empty(), "this one was not sent");
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Record>>);

#[derive(Default)]
struct Record {
    body: Option<ReplayHandle>,
    key: Option<(HeaderName, HeaderValue)>,
    attempts: Vec<Attempt>,
    ending: Option<Ending>,
    closed: bool,
}

/// One attempt of a request, as a [`Recorder`] keeps it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Attempt {
    /// The host that was called; empty where requests name none.
    pub host: Arc<str>,
    /// When it began, its wait for a slot included.
    pub began: Instant,
    /// What it came to. `None` while it is under way, and for good if it was cut
    /// short: the deadline passed, or the caller went away.
    pub end: Option<End>,
}

/// How an [`Attempt`] ended.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct End {
    /// When.
    pub at: Instant,
    /// With what.
    pub outcome: Outcome,
    /// The wait before the next attempt, if another was planned.
    pub delay: Option<Duration>,
}

/// Why a request was not sent again.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Ending {
    /// Its last result is not one that is repeated: a success, or what another
    /// attempt would not change.
    Done,
    /// Its last result is one that is repeated, but not for this request: the
    /// upstream may have acted on it.
    Unsafe,
    /// Its retries were used up, or its patience.
    Exhausted,
    /// The budget of its host, or of its batch, was empty.
    BudgetEmpty,
    /// The wait was too long.
    GaveUp(GiveUp),
    /// Its body could not be had again.
    NotReplayable(NotReplayable),
    /// Its deadline passed.
    Deadline,
    /// Its stack was shut down.
    ShuttingDown,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("the result is not one that is repeated"),
            Self::Unsafe => f.write_str("the upstream may have acted on the request"),
            Self::Exhausted => f.write_str("the retries were used up"),
            Self::BudgetEmpty => f.write_str("the retry budget was empty"),
            Self::GaveUp(why) => why.fmt(f),
            Self::NotReplayable(why) => why.fmt(f),
            Self::Deadline => f.write_str("the deadline passed"),
            Self::ShuttingDown => f.write_str("the stack was shut down"),
        }
    }
}

impl Recorder {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle on the request's body, if a layer has recorded it.
    pub fn body(&self) -> Option<ReplayHandle> {
        self.lock().body.clone()
    }

    /// Keeps the handle on the request's body, for layers further in to take the
    /// body from and for those further out to have it. The first one stays.
    pub fn keep_body(&self, body: &ReplayHandle) {
        let mut record = self.lock();
        if record.body.is_none() && !record.closed {
            record.body = Some(body.clone());
        }
    }

    /// The idempotency key that the attempts carry and the caller's request did
    /// not, with its header's name.
    pub fn key(&self) -> Option<(HeaderName, HeaderValue)> {
        self.lock().key.clone()
    }

    /// Keeps the idempotency key that a layer has given the request: who sends
    /// it again later must send the same.
    pub fn keep_key(&self, name: HeaderName, value: HeaderValue) {
        self.lock().key = Some((name, value));
    }

    /// The attempts so far, the first one first.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.lock().attempts.clone()
    }

    /// Whether an upstream may have acted on the request in any of its attempts.
    /// An attempt that is under way or was cut short may have been processed.
    pub fn processed(&self) -> Processed {
        let maybe = |attempt: &Attempt| {
            attempt
                .end
                .is_none_or(|end| end.outcome.processed == Processed::Maybe)
        };
        match self.lock().attempts.iter().any(maybe) {
            true => Processed::Maybe,
            false => Processed::No,
        }
    }

    /// How many attempts there were so far.
    pub fn count(&self) -> usize {
        self.lock().attempts.len()
    }

    /// Whether the rules of repetition let the request be sent again: each of its
    /// attempts was certainly not processed, or ended as any method is repeated
    /// after (gRPC's UNAVAILABLE, say), or repeating it is `safe`.
    ///
    /// It looks at all attempts because doubt stays: a timeout that is followed by
    /// an open circuit may have been processed.
    pub fn may_repeat(&self, safe: bool) -> bool {
        let harmless = |attempt: &Attempt| {
            attempt.end.is_some_and(|end| {
                end.outcome.processed == Processed::No
                    || matches!(end.outcome.repeat, Repeat::Always | Repeat::Transparent)
            })
        };
        safe || self.lock().attempts.iter().all(harmless)
    }

    /// What the last attempt that ended came to.
    pub fn outcome(&self) -> Option<Outcome> {
        let record = self.lock();
        let ends = record.attempts.iter().rev().filter_map(|one| one.end);
        ends.map(|end| end.outcome).next()
    }

    /// Why there was no further attempt. `None` while there may be one, and if
    /// the caller went away.
    pub fn ending(&self) -> Option<Ending> {
        self.lock().ending
    }

    /// Lets go of the body and records no more: nobody will ask.
    ///
    /// While the handle is kept, what is sent of the body is recorded, also after
    /// an early answer.
    pub fn close(&self) {
        let mut record = self.lock();
        record.closed = true;
        let body = record.body.take();
        let attempts = mem::take(&mut record.attempts);
        drop(record);
        drop((body, attempts));
    }

    /// Writes down that an attempt begins.
    pub fn begin(&self, host: Arc<str>, now: Instant) {
        let mut record = self.lock();
        if record.closed {
            return;
        }
        record.ending = None;
        record.attempts.push(Attempt {
            host,
            began: now,
            end: None,
        });
    }

    /// Writes down what the attempt that began last came to, unless that is
    /// known already, and what `delay` comes before the next one.
    pub fn end(&self, outcome: Outcome, delay: Option<Duration>, now: Instant) {
        if let Some(last) = self.lock().attempts.last_mut() {
            last.end.get_or_insert(End {
                at: now,
                outcome,
                delay,
            });
        }
    }

    /// Writes down why no other attempt follows.
    pub fn conclude(&self, ending: Ending) {
        self.lock().ending = Some(ending);
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.lock();
        f.debug_struct("Recorder")
            .field("attempts", &record.attempts)
            .field("ending", &record.ending)
            .finish_non_exhaustive()
    }
}
