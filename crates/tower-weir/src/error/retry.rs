use std::{fmt, sync::Arc};

use super::refusal::{Of, refusal};
use crate::outcome::Cause;

refusal! {
    /// A retry waited for its budget until its patience or its deadline would
    /// have passed, and the answer before it is no longer at hand: its body was
    /// read on to free its connection. An answer without a body, and an error,
    /// the caller gets instead of this.
    ///
    /// It happens only under
    /// [`patience`](crate::retry::RetryPolicy::patience): else a retry that the
    /// budget refuses is given up at once, and the caller gets the result there
    /// is.
    ///
    /// Under the feature `tonic` it is a RESOURCE_EXHAUSTED.
    BudgetExhausted is ResourceExhausted {
        host: Arc<str>,
        cause: Cause,
    }
}

impl BudgetExhausted {
    /// The host whose budget is empty; empty where requests name none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the last attempt had come to.
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

impl fmt::Display for BudgetExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, cause) = (Of(&self.host), self.cause);
        write!(f, "the retry budget stayed empty{host} (after {cause})")
    }
}
