use std::{fmt, sync::Arc};

use super::refusal::{Of, refusal};

refusal! {
    /// The layer is being drained: the request was not sent, and trying again is
    /// of no use.
    ///
    /// Under the feature `tonic` it is an UNAVAILABLE.
    ShuttingDown is Unavailable {
        host: Arc<str>,
    }
}

impl ShuttingDown {
    /// The host that was to be called; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Display for ShuttingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shutting down: no more requests{}", Of(&self.host))
    }
}
