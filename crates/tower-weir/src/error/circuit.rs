use std::{fmt, sync::Arc, time::Duration};

use super::refusal::{Of, Seconds, refusal};
use crate::circuit_breaker::ChangeCause;

refusal! {
    /// The circuit of the request's host is open: the request was not sent.
    ///
    /// Under the feature `tonic` it is an UNAVAILABLE.
    CircuitOpen is Unavailable {
        host: Arc<str>,
        retry_after: Option<Duration>,
        open_for: Duration,
        cause: ChangeCause,
    }
}

impl CircuitOpen {
    /// The host whose circuit is open; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// In what time to come again: what is left of the open period, or, while
    /// probes are under way, a guess. `None` when it is held open by hand.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// How long the circuit has been in its state.
    pub fn open_for(&self) -> Duration {
        self.open_for
    }

    /// Why it opened.
    pub fn cause(&self) -> ChangeCause {
        self.cause
    }
}

impl fmt::Display for CircuitOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circuit open{} ({})", Of(&self.host), self.cause)?;
        match self.retry_after {
            Some(after) => write!(f, ": come again in {}", Seconds(after)),
            None => f.write_str(": held open"),
        }
    }
}
