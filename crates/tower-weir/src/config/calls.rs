use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::words::none;
use crate::admit::{Hold, Settings as Admission};

/// The section `calls`: what limiter and breaker have in common, their queue and
/// the time of a call. On the layers the settings have the same names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CallSettings {
    /// How many calls may wait for their turn. Default 1,024; `"none"` for no
    /// bound.
    #[serde(with = "none")]
    pub max_waiting: Option<usize>,
    /// How long a call may wait for its turn. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub queue_timeout: Duration,
    /// How long an attempt may take to its response's headers. Default 30 s;
    /// `"none"` for no limit.
    #[serde(with = "none::time")]
    pub attempt_timeout: Option<Duration>,
    /// Until when a call keeps its slot.
    pub hold: HoldKind,
    /// How long after its headers a response may keep its slot. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub max_hold: Duration,
    /// How many hosts are remembered, by retries for their budgets too. Default 256;
    /// 0 counts as 1.
    pub max_hosts: usize,
}

impl Default for CallSettings {
    fn default() -> Self {
        Self {
            max_waiting: Some(1024),
            queue_timeout: Duration::from_secs(10),
            attempt_timeout: Some(Duration::from_secs(30)),
            hold: HoldKind::default(),
            max_hold: Duration::from_secs(30),
            max_hosts: 256,
        }
    }
}

/// Until when a call keeps its slot: a [`Hold`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HoldKind {
    /// [`Hold::BodyEnd`], the default.
    #[default]
    BodyEnd,
    /// [`Hold::Headers`].
    Headers,
}

impl CallSettings {
    pub(super) fn max_waiting(&self) -> usize {
        self.max_waiting.unwrap_or(usize::MAX)
    }

    pub(super) fn hold(&self) -> Hold {
        match self.hold {
            HoldKind::BodyEnd => Hold::BodyEnd,
            HoldKind::Headers => Hold::Headers,
        }
    }

    /// Changes what may change while calls are in flight.
    pub(crate) fn write_to(&self, settings: &mut Admission) {
        settings.max_waiting = self.max_waiting();
        settings.queue_timeout = self.queue_timeout;
        settings.attempt_timeout = self.attempt_timeout;
        settings.hold = self.hold();
        settings.max_hold = self.max_hold;
        settings.max_hosts = self.max_hosts;
    }
}
