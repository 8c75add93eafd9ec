use std::{error::Error, fmt, time::Duration};

/// Why an operation was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Too many operations are pending, or it was delayed for too long.
    TooManyJobs,
    /// The bodies of the pending operations are too large together.
    QueueTooLarge,
    /// The oldest pending operation is too old.
    OldJobs,
    /// The storage is full. Waiting is of no use: somebody must delete.
    StorageFull,
    /// The server is shutting down.
    ShuttingDown,
}

impl Reason {
    /// The code used in answers and logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooManyJobs => "too-many-jobs",
            Self::QueueTooLarge => "queue-too-large",
            Self::OldJobs => "old-jobs",
            Self::StorageFull => "storage-full",
            Self::ShuttingDown => "shutting-down",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An operation that was rejected: the event, and an extension of the response
/// for whoever wants to log it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    pub(super) why: Why,
    pub(super) class: &'static str,
    pub(super) retry_after: Option<Duration>,
}

/// What was measured, and the limit that it broke.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Why {
    Pending {
        pending: usize,
        limit: usize,
    },
    PendingOfClass {
        pending: usize,
        limit: usize,
    },
    Delayed {
        delay: Duration,
    },
    Bytes {
        pending: u64,
        limit: u64,
    },
    Age {
        oldest: Duration,
        limit: Duration,
    },
    Storage {
        level: f64,
    },
    Draining,
    /// It ran when the grace was over.
    Cut,
}

impl Rejected {
    /// Why.
    pub fn reason(&self) -> Reason {
        match self.why {
            Why::Pending { .. } | Why::PendingOfClass { .. } | Why::Delayed { .. } => {
                Reason::TooManyJobs
            }
            Why::Bytes { .. } => Reason::QueueTooLarge,
            Why::Age { .. } => Reason::OldJobs,
            Why::Storage { .. } => Reason::StorageFull,
            Why::Draining | Why::Cut => Reason::ShuttingDown,
        }
    }

    /// The class of the operation.
    pub fn class(&self) -> &'static str {
        self.class
    }

    /// In what time what is pending now will be done, as far as one can tell;
    /// `None` where waiting is of no use, and for what was cut short.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Why::Pending { pending, limit } => write!(
                f,
                "{pending} operations are pending, of at most {limit}: too many for one more"
            ),
            Why::PendingOfClass { pending, limit } => write!(
                f,
                "{pending} operations of the class {} are pending, of at most {limit}",
                self.class
            ),
            Why::Delayed { delay } => {
                write!(f, "it was delayed for {delay:?}, and others go first still")
            }
            Why::Bytes { pending, limit } => write!(
                f,
                "the pending operations have {pending} bytes, of at most {limit}: too many for this one"
            ),
            Why::Age { oldest, limit } => write!(
                f,
                "the oldest pending operation has been here for {oldest:?}, longer than {limit:?}"
            ),
            Why::Storage { level } => write!(
                f,
                "the storage is filled to {:.1}%: delete something first",
                level * 100.0
            ),
            Why::Draining => f.write_str("the server is shutting down"),
            Why::Cut => f.write_str("the server was shut down while it ran: it may have been done"),
        }
    }
}

impl Error for Rejected {}
