//! The calls that the rates are computed over: running totals, and enough
//! memory to take from them what has grown too old.

mod calls;
mod slices;
#[cfg(test)]
mod tests;

use std::ops::{AddAssign, SubAssign};

use tokio::time::Instant;

use self::{calls::LastCalls, slices::Slices};
use super::config::{Kind, Window};

/// Calls that were recorded, and how many of them went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// All of them.
    pub calls: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that were slow, failed or not. 0 unless the slow-call rule is on.
    pub slow: u64,
}

impl Counts {
    pub(super) const fn one(failed: bool, slow: bool) -> Self {
        Self {
            calls: 1,
            failed: failed as u64,
            slow: slow as u64,
        }
    }

    /// The share of calls that failed, from 0 to 1; 0 if there were none.
    pub fn failure_rate(&self) -> f64 {
        share(self.failed, self.calls)
    }

    /// The share of calls that were slow, from 0 to 1; 0 if there were none.
    pub fn slow_rate(&self) -> f64 {
        share(self.slow, self.calls)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.slow += other.slow;
    }
}

impl SubAssign for Counts {
    fn sub_assign(&mut self, other: Self) {
        self.calls -= other.calls;
        self.failed -= other.failed;
        self.slow -= other.slow;
    }
}

/// A window in use. The kind is told by a tag of its own, which is read with the
/// counts: not by what a field far from them leaves free.
#[derive(Debug)]
#[repr(C)]
pub(super) enum Ring {
    Slices(Slices),
    Calls(LastCalls),
}

impl Ring {
    pub(super) fn new(window: Window, now: Instant) -> Self {
        match window.0 {
            Kind::Time { width, slices } => Self::Slices(Slices::new(width, slices, now)),
            Kind::Calls(calls) => Self::Calls(LastCalls::new(calls)),
        }
    }

    /// Whether there may be a failure in it.
    pub(super) const fn has_failures(&self) -> bool {
        let total = match self {
            Self::Slices(slices) => slices.total(),
            Self::Calls(calls) => calls.counts(),
        };
        total.failed > 0
    }

    /// Takes one call in and returns what the window holds with it.
    #[inline]
    pub(super) fn record(&mut self, failed: bool, slow: bool, now: Instant) -> Counts {
        let call = Counts::one(failed, slow);
        match self {
            Self::Slices(slices) => slices.record(call, now),
            Self::Calls(calls) => calls.record(call),
        }
    }

    /// What the window holds at `now`.
    pub(super) fn counts(&self, now: Instant) -> Counts {
        match self {
            Self::Slices(slices) => slices.counts(now),
            Self::Calls(calls) => calls.counts(),
        }
    }

    pub(super) fn clear(&mut self, now: Instant) {
        match self {
            Self::Slices(slices) => slices.clear(now),
            Self::Calls(calls) => calls.clear(),
        }
    }
}
