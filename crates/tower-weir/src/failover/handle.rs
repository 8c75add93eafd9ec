use std::{fmt, sync::Arc};

use tokio::time::Instant;

use super::{core::Core, down::DownCause};
use crate::{observe::Subscription, retry::Account};

/// A view into a running [`Failover`](super::Failover), and a hand on it. Clones
/// are views of the same.
#[derive(Clone)]
pub struct FailoverHandle {
    pub(super) core: Arc<Core>,
    pub(super) account: Account,
}

/// Where all regions stand.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailoverSnapshot {
    /// The index of the region that requests go to first. `None` while no region
    /// is up, and all of them are tried.
    pub active: Option<usize>,
    /// The region that was [pinned](FailoverHandle::pin).
    pub pinned: Option<usize>,
    /// The region that goes before all others: the first, unless another one is
    /// [preferred](FailoverHandle::prefer).
    pub preferred: usize,
    /// The regions in the order in which they were given.
    pub regions: Vec<RegionSnapshot>,
}

/// Where one region stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegionSnapshot {
    /// Its name.
    pub name: Arc<str>,
    /// Why it is down; `None` while it is up.
    pub down: Option<DownCause>,
    /// Since when it is as it is.
    pub since: Instant,
    /// What came of the requests that went to it.
    pub counts: RegionCounts,
}

/// What came of the requests that went to a region, since the beginning.
///
/// A request counts once for each region that it went to, however many attempts
/// that region's stack made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionCounts {
    /// Requests that went there.
    pub sent: u64,
    /// Those of them that were probes.
    pub probes: u64,
    /// Answered well.
    pub good: u64,
    /// Refused, by the region or by the queue in front of it.
    pub refused: u64,
    /// Failed.
    pub failed: u64,
    /// Not let through: an open circuit, a stack that is being drained.
    pub shut: u64,
}

impl FailoverHandle {
    /// Where all regions stand.
    pub fn snapshot(&self) -> FailoverSnapshot {
        let (active, pinned, preferred, regions) = self.core.board(|board| {
            let regions = self.core.places.iter().enumerate();
            let regions = regions.map(|(index, place)| {
                let (down, since) = board.condition(index);
                RegionSnapshot {
                    name: place.name.clone(),
                    down,
                    since,
                    counts: board.counts(index),
                }
            });
            let regions: Vec<_> = regions.collect();
            (board.active(), board.pinned(), board.preferred(), regions)
        });
        FailoverSnapshot {
            active,
            pinned,
            preferred,
            regions,
        }
    }

    /// Puts a region before all others, until it is [released](Self::release):
    /// requests go there while it is up. Says whether there is such a region.
    pub fn prefer(&self, name: &str) -> bool {
        self.core.by_hand(name, super::board::Board::prefer)
    }

    /// Sends every request to one region and to no other, until it is
    /// [released](Self::release): also while it is down, and without failing
    /// over. For maintenance, and to try a region out. Says whether there is such
    /// a region.
    pub fn pin(&self, name: &str) -> bool {
        self.core.by_hand(name, super::board::Board::pin)
    }

    /// Takes [`prefer`](Self::prefer) and [`pin`](Self::pin) back.
    pub fn release(&self) {
        self.core.change(super::board::Board::release);
    }

    /// The account of the failover's recorded request bodies.
    pub fn replay(&self) -> &Account {
        &self.account
    }

    /// Takes over settings that were checked.
    #[cfg(feature = "config")]
    pub(crate) fn take(&self, settings: &crate::config::FailoverSettings) {
        settings.replay.write_to(&self.account);
        self.core.take(settings.into());
    }

    #[cfg(all(test, feature = "config"))]
    pub(crate) fn shown(&self) -> String {
        format!("{:?} {:?}", self.core.policy(), self.account)
    }

    /// Everything that the value which the handle was taken from does from now on.
    /// See [`observe`](crate::observe).
    pub fn subscribe(&self) -> Subscription {
        self.core.seam.subscribe()
    }
}

impl fmt::Debug for FailoverHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailoverHandle").finish_non_exhaustive()
    }
}
