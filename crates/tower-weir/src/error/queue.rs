use std::{fmt, sync::Arc, time::Duration};

use super::refusal::{Of, Seconds, refusal};

refusal! {
    /// The limiter's queue is full: the request was not sent.
    ///
    /// Under the feature `tonic` it is a RESOURCE_EXHAUSTED.
    QueueFull is ResourceExhausted {
        host: Arc<str>,
        limit: Option<usize>,
        waiting: usize,
    }
}

impl QueueFull {
    /// The host whose slots were wanted; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host's concurrency limit, where there is a limiter.
    pub fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// How many requests of the layer are waiting.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

impl fmt::Display for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "queue full{}: {} waiting{}",
            Of(&self.host),
            self.waiting,
            Limit(self.limit)
        )
    }
}

refusal! {
    /// No slot came free within the queue timeout: the request was not sent.
    ///
    /// Under the feature `tonic` it is a RESOURCE_EXHAUSTED.
    QueueTimeout is ResourceExhausted {
        host: Arc<str>,
        limit: Option<usize>,
        waiting: usize,
        waited: Duration,
    }
}

impl QueueTimeout {
    /// The host whose slots were wanted; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host's concurrency limit, where there is a limiter.
    pub fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// How many requests of the host are waiting still.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How long the request waited. Less than the queue timeout if it was
    /// refused at once because the upstream asked for a longer pause.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl fmt::Display for QueueTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no slot{} after {}: {} more waiting{}",
            Of(&self.host),
            Seconds(self.waited),
            self.waiting,
            Limit(self.limit)
        )
    }
}

struct Limit(Option<usize>);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => write!(f, ", limit {limit}"),
            None => Ok(()),
        }
    }
}
