use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The section `shutdown`, which the program reads: no layer does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ShutdownSettings {
    /// How long what is in flight may go on, for
    /// [`Shutdown::drain`](crate::shutdown::Shutdown::drain). Default 20 s: where a
    /// process is killed after 30 s, it leaves some for what comes after.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(20),
        }
    }
}
