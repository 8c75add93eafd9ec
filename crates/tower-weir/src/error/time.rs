use std::{fmt, time::Duration};

use super::refusal::{Seconds, refusal};

refusal! {
    /// An attempt brought no response headers within its own time.
    ///
    /// Under the feature `tonic` it is a DEADLINE_EXCEEDED.
    AttemptTimeout is DeadlineExceeded {
        after: Duration,
    }
}

impl AttemptTimeout {
    /// How long the attempt was given.
    pub fn after(&self) -> Duration {
        self.after
    }
}

impl fmt::Display for AttemptTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no response headers within {}", Seconds(self.after))
    }
}

/// Whether the attempt that the deadline ended was on its way to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Sent,
    /// It waited for its turn: another layer that sees this must not blame the
    /// upstream.
    Unsent,
}

refusal! {
    /// The deadline of the whole request passed.
    ///
    /// Under the feature `tonic` it is a DEADLINE_EXCEEDED.
    DeadlineExceeded is DeadlineExceeded {
        when: When,
    }
}

impl DeadlineExceeded {
    pub(crate) fn sent() -> Self {
        Self::new(When::Sent)
    }

    pub(crate) fn unsent() -> Self {
        Self::new(When::Unsent)
    }

    pub(crate) fn is_unsent(&self) -> bool {
        self.when == When::Unsent
    }
}

impl fmt::Display for DeadlineExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's deadline has passed")
    }
}
