//! Letters that could not be kept.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use http::{Response, StatusCode};
use tokio::time::Instant;

use crate::BoxError;

/// Of losses that follow each other the first is told at once, and the others
/// together this much later: a full disk under a thousand failures a second must
/// not fill the log as well.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(10);

/// Why a letter was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// Too many letters were pending.
    Full,
    /// The sink had an error, or panicked.
    Failed,
    /// The sink did not keep it in time. It may still do so.
    TimedOut,
    /// The runtime shut down before the sink had it, or there was none.
    ShutDown,
}

impl Loss {
    /// The word used in logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::ShutDown => "shut_down",
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "too many letters are pending",
            Self::Failed => "the sink had an error",
            Self::TimedOut => "the sink did not keep it in time",
            Self::ShutDown => "there is no runtime any more",
        })
    }
}

/// How many letters were lost, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Losses {
    /// Too many were pending.
    pub full: u64,
    /// The sink had an error.
    pub failed: u64,
    /// The sink took too long.
    pub timed_out: u64,
    /// There was no runtime any more.
    pub shut_down: u64,
}

impl Losses {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.full + self.failed + self.timed_out + self.shut_down
    }

    pub(super) fn count(&mut self, why: Loss) {
        *match why {
            Loss::Full => &mut self.full,
            Loss::Failed => &mut self.failed,
            Loss::TimedOut => &mut self.timed_out,
            Loss::ShutDown => &mut self.shut_down,
        } += 1;
    }
}

/// The error of a layer whose callers [wait](super::DeadLetterLayer::strict)
/// for their letters: the request failed, and its letter was not kept.
#[derive(Debug)]
pub struct NotKept {
    why: Loss,
    result: Result<StatusCode, BoxError>,
}

impl NotKept {
    pub(super) fn of<R>(why: Loss, result: Result<Response<R>, BoxError>) -> Self {
        let result = result.map(|response| response.status());
        Self { why, result }
    }

    /// Why the letter was not kept.
    pub fn why(&self) -> Loss {
        self.why
    }

    /// The status of the response that the caller would have got. If it would
    /// have been an error, that is the [`source`](Error::source).
    pub fn status(&self) -> Option<StatusCode> {
        self.result.as_ref().ok().copied()
    }
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request failed")?;
        if let Ok(status) = &self.result {
            write!(f, " ({status})")?;
        }
        write!(f, ", and its letter was not kept: {}", self.why)
    }
}

impl Error for NotKept {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.result {
            Ok(_) => None,
            Err(error) => Some(error.as_ref()),
        }
    }
}

/// When to tell of losses.
#[derive(Debug, Default)]
pub(super) struct Bulletin {
    told: Option<Instant>,
    untold: u64,
    last: Option<Loss>,
    /// The last that the sink said.
    error: Option<Arc<str>>,
    /// Whether somebody will tell of what is untold.
    armed: bool,
}

/// What to do about a loss.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tell {
    /// Tell of so many now, with what the sink said.
    Now(Loss, u64, Option<Arc<str>>),
    /// Come back then.
    At(Instant),
    /// It will be told with others.
    Later,
}

impl Bulletin {
    pub(super) fn lost(&mut self, why: Loss, error: Option<Arc<str>>, now: Instant) -> Tell {
        self.untold += 1;
        self.last = Some(why);
        self.error = error.or_else(|| self.error.take());
        match self.told.map(|told| told + TELL_EVERY) {
            Some(next) if now < next && self.armed => Tell::Later,
            Some(next) if now < next => {
                self.armed = true;
                Tell::At(next)
            }
            _ => self.due(now),
        }
    }

    /// What is untold, when the time has come.
    pub(super) fn due(&mut self, now: Instant) -> Tell {
        self.armed = false;
        match self.last.take() {
            Some(why) => {
                self.told = Some(now);
                Tell::Now(why, std::mem::take(&mut self.untold), self.error.take())
            }
            None => Tell::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_loss_is_told_at_once_and_the_rest_together() {
        let mut bulletin = Bulletin::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let end = start + TELL_EVERY;
        let said = |text: &str| Some(Arc::from(text));
        let now = |why, letters, error| Tell::Now(why, letters, error);
        assert_eq!(
            bulletin.lost(Loss::Full, None, at(0)),
            now(Loss::Full, 1, None)
        );
        let first = bulletin.lost(Loss::Failed, said("disk"), at(1));
        assert_eq!(first, Tell::At(end));
        let second = bulletin.lost(Loss::Failed, said("disk full"), at(2));
        assert_eq!(second, Tell::Later);
        assert_eq!(bulletin.lost(Loss::Full, None, at(3)), Tell::Later);
        assert_eq!(bulletin.due(end), now(Loss::Full, 3, said("disk full")));
        assert_eq!(bulletin.due(end), Tell::Later, "nothing is left");
        let later = end + TELL_EVERY;
        assert_eq!(
            bulletin.lost(Loss::TimedOut, None, later),
            now(Loss::TimedOut, 1, None)
        );
    }
}
