use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::circuit_breaker::Counts;

/// Where a circuit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Admitting.
    Closed,
    /// Refusing.
    Open,
    /// Probing: a few calls are let through to see whether the upstream is back.
    HalfOpen,
}

impl State {
    /// The word used in logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who decides what state a circuit is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Control {
    /// The rules do.
    Automatic,
    /// It is held open: every call is refused, no probe is sent.
    ForcedOpen,
    /// It is held closed: every call is admitted, nothing is recorded.
    ForcedClosed,
    /// It is held closed, and calls are recorded as if the rules applied.
    MetricsOnly,
}

/// Why a circuit changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeCause {
    /// The failure rate reached its threshold.
    FailureRate,
    /// Failures came in a row.
    FailureRun,
    /// The slow-call rate reached its threshold.
    SlowRate,
    /// The open period was over and a call came: it is the first probe.
    OpenElapsed,
    /// Too many probes failed.
    ProbeFailed,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// An operator said so.
    Manual,
}

impl ChangeCause {
    /// The word used in logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailureRate => "failure_rate",
            Self::FailureRun => "failure_run",
            Self::SlowRate => "slow_rate",
            Self::OpenElapsed => "open_elapsed",
            Self::ProbeFailed => "probe_failed",
            Self::ProbesSucceeded => "probes_succeeded",
            Self::Manual => "manual",
        }
    }
}

impl fmt::Display for ChangeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Transition {
    /// The state that was left.
    pub from: State,
    /// The state that was entered.
    pub to: State,
    /// Why.
    pub cause: ChangeCause,
    /// The calls that it was decided on: those in the window, or, where probes
    /// decided, the probes that had settled.
    pub counts: Counts,
    /// How long the circuit will refuse, jitter and hint included. `None`
    /// unless it opened, and when it is held open.
    pub open_for: Option<Duration>,
    /// How long the state that was left had lasted.
    pub lasted: Duration,
}

/// A circuit at a glance.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Where it stands. An open circuit whose time is over stays open until the
    /// next call comes.
    pub state: State,
    /// Who decides that.
    pub control: Control,
    /// Since when it has been in this state.
    pub since: Instant,
    /// The calls in the window. While the circuit is not closed, those from
    /// before it opened.
    pub counts: Counts,
    /// Failures in a row up to now, or up to when it opened.
    pub failure_run: u32,
    /// The rule that the window or the run meets now. Under
    /// [`Control::MetricsOnly`]: what would have opened the circuit.
    pub exceeded: Option<ChangeCause>,
    /// Why it last opened. `None` while it is closed.
    pub opened_by: Option<ChangeCause>,
    /// In what time to come again, if it refuses. `None` if it admits, or is
    /// held open.
    pub retry_after: Option<Duration>,
}
