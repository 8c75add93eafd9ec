use std::{fmt, sync::Arc};

/// Why a region counts as down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DownCause {
    /// Its circuit is open.
    CircuitOpen,
    /// A run of its requests failed.
    Failures,
    /// A run of its requests was refused.
    Refusals,
    /// Its stack is being drained.
    ShuttingDown,
    /// Its service failed to become ready.
    NotReady,
}

impl DownCause {
    /// The word used in logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::Failures => "failures",
            Self::Refusals => "refusals",
            Self::ShuttingDown => "shutting_down",
            Self::NotReady => "not_ready",
        }
    }
}

impl fmt::Display for DownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A region went down, or is up again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionChange {
    /// The region.
    pub region: Arc<str>,
    /// Why it is down; `None` if it is up again.
    pub down: Option<DownCause>,
    /// The region that requests go to first from now on; `None` if all are down.
    pub active: Option<Arc<str>>,
}

/// A response extension: the region whose answer it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AnsweredBy {
    /// The region's name.
    pub name: Arc<str>,
    /// Its place in the order in which the regions were given, from 0.
    pub index: usize,
}
