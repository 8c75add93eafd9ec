use std::time::Duration;

#[cfg(feature = "config")]
use super::Run;
use super::rules::Rules;
#[cfg(feature = "config")]
use crate::config::{FailoverSettings, RunSettings};

/// How a failover treats requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) rules: Rules,
    pub(super) any_method: bool,
    pub(super) deadline: Option<Duration>,
    pub(super) ready_within: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            any_method: false,
            deadline: None,
            ready_within: Duration::from_secs(1),
        }
    }
}

#[cfg(feature = "config")]
impl From<&FailoverSettings> for Policy {
    fn from(said: &FailoverSettings) -> Self {
        let run = |run: &RunSettings| Run::new(run.count, run.over);
        Self {
            rules: Rules {
                failures: run(&said.failures),
                refusals: run(&said.refusals),
                probe_every: said.probe_every,
                successes: said.successes,
                min_down: said.min_down,
                max_down: said.max_down,
            },
            any_method: said.any_method,
            deadline: said.deadline,
            ready_within: said.ready_within,
        }
    }
}
