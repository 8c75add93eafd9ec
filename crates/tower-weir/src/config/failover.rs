use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{InvalidSettings, ReplaySettings, error::require, words::none};

/// The section `failover`: what the `Failover` of the feature `failover` can be
/// told, under the same names. The regions are code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FailoverSettings {
    /// Whether every request is taken for safe to send elsewhere. Default false.
    pub any_method: bool,
    /// The time for a whole request, in all regions together. Default `"none"`.
    #[serde(with = "none::time")]
    pub deadline: Option<Duration>,
    /// How long a request waits for another region's service to become ready.
    /// Default 1 s.
    #[serde(with = "humantime_serde")]
    pub ready_within: Duration,
    /// How often a region that is down is probed. Default 1 s; more than zero.
    #[serde(with = "humantime_serde")]
    pub probe_every: Duration,
    /// How many good probes in a row bring a region back. Default 3; at least 1.
    pub successes: u32,
    /// How long a region is down at least. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub min_down: Duration,
    /// How long it is down at most. Default `"none"`.
    #[serde(with = "none::time")]
    pub max_down: Option<Duration>,
    /// The failures that take a region down. Default 3 over 1 s.
    pub failures: RunSettings,
    /// The refusals that do. Default 3 over 2 s.
    pub refusals: RunSettings,
    /// What is recorded of request bodies, for all regions.
    pub replay: ReplaySettings,
}

impl Default for FailoverSettings {
    fn default() -> Self {
        let run = |seconds| RunSettings {
            count: 3,
            over: Duration::from_secs(seconds),
        };
        Self {
            any_method: false,
            deadline: None,
            ready_within: Duration::from_secs(1),
            probe_every: Duration::from_secs(1),
            successes: 3,
            min_down: Duration::from_secs(5),
            max_down: None,
            failures: run(1),
            refusals: run(2),
            replay: ReplaySettings::default(),
        }
    }
}

/// The sections `failover.failures` and `failover.refusals`: bad results in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RunSettings {
    /// So many; at least 1.
    pub count: u32,
    /// The last so long after the first, or longer.
    #[serde(with = "humantime_serde")]
    pub over: Duration,
}

impl FailoverSettings {
    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        for (field, count) in [
            ("successes", self.successes),
            ("failures.count", self.failures.count),
            ("refusals.count", self.refusals.count),
        ] {
            let path = format!("failover.{field}");
            require(count >= 1, &path, "must be at least 1")?;
        }
        let some = !self.probe_every.is_zero();
        require(some, "failover.probe_every", "must be more than zero")
    }
}
