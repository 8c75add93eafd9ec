use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{InvalidSettings, error::require};

/// The section `dead_letter`: what the `DeadLetterLayer` of the feature
/// `dead-letter` can be told, under the same names. Which headers are left out, and
/// what a failure is, is code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DeadLetterSettings {
    /// Whether failed requests leave letters. Default true.
    pub enabled: bool,
    /// Whether a request whose caller goes away leaves one. Default false.
    pub on_cancel: bool,
    /// Whether a caller waits until its letter is kept. Default false.
    pub strict: bool,
    /// How many letters may be on their way to the sink. Default 1,024; at least 1.
    pub max_pending: usize,
    /// How many bytes their bodies may have together. Default 64 MiB.
    pub max_pending_bytes: usize,
    /// The longest body, in bytes, that a letter holds. Default 4 MiB.
    pub max_body: usize,
    /// How long a letter waits for its body. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long the sink may take for a letter. Default 30 s; more than zero.
    #[serde(with = "humantime_serde")]
    pub sink_timeout: Duration,
}

impl Default for DeadLetterSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            on_cancel: false,
            strict: false,
            max_pending: 1024,
            max_pending_bytes: 64 << 20,
            max_body: 4 << 20,
            body_timeout: Duration::from_secs(10),
            sink_timeout: Duration::from_secs(30),
        }
    }
}

impl DeadLetterSettings {
    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        let some = self.max_pending >= 1;
        require(some, "dead_letter.max_pending", "must be at least 1")?;
        let some = !self.sink_timeout.is_zero();
        require(some, "dead_letter.sink_timeout", "must be more than zero")
    }
}
