use std::{fmt, sync::Arc};

use super::refusal::{Of, refusal};
use crate::outcome::{Cause, Processed};

refusal! {
    /// The stack is being shut down: the request was not sent, or not sent again,
    /// and trying again is of no use; or it was cut short when the grace was
    /// over.
    ///
    /// Under the feature `tonic` it is an UNAVAILABLE.
    ShuttingDown is Unavailable {
        host: Arc<str>,
        attempts: u32,
        last: Option<Cause>,
        processed: Processed,
        cut: bool,
    }
}

impl ShuttingDown {
    /// It was never sent.
    pub(crate) fn unsent(host: Arc<str>) -> Self {
        Self::new(host, 0, None, Processed::No, false)
    }

    /// The last of so many attempts was under way when the grace was over.
    pub(crate) fn cut(host: Arc<str>, attempts: u32, last: Option<Cause>) -> Self {
        Self::new(host, attempts, last, Processed::Maybe, true)
    }

    /// There would have been another attempt after so many.
    #[cfg(feature = "retry")]
    pub(crate) fn after(
        host: Arc<str>,
        attempts: u32,
        last: Option<Cause>,
        processed: Processed,
    ) -> Self {
        Self::new(host, attempts, last, processed, false)
    }

    /// The host that was to be called; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// How many attempts there were, one that was cut short included. 0 for a
    /// request that was refused before it was sent.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What the last attempt that ended had come to.
    pub fn last(&self) -> Option<Cause> {
        self.last
    }

    /// Whether the upstream may have acted on the request in one of its attempts.
    /// If not, it can be handed on as if it had never been sent.
    pub fn processed(&self) -> Processed {
        self.processed
    }

    /// Whether an attempt was cut short.
    pub fn is_cut(&self) -> bool {
        self.cut
    }
}

impl fmt::Display for ShuttingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = Of(&self.host);
        match (self.cut, self.attempts) {
            (true, n) => write!(f, "shutting down: attempt {n} was cut short{host}")?,
            (false, 0) => write!(f, "shutting down: no more requests{host}")?,
            (false, n) => write!(f, "shutting down: no attempt after number {n}{host}")?,
        }
        match self.last {
            Some(last) => write!(f, " (after {last})"),
            None => Ok(()),
        }
    }
}
