//! Which region a request goes to, and what its results say of the regions.
//!
//! Pure: time is an argument, and nothing here waits or sends.
//!
//! 1. A request goes to the most preferred region that is up.
//! 2. A region goes down with a run of failures or of refusals that no success
//!    interrupts, or at once when its own stack refuses everything.
//! 3. A region that is down and preferred to the one in use gets one request a
//!    period as a probe, one at a time.
//! 4. It is up again after so many good probes in a row, and no sooner than it
//!    has been down for its least time. That time doubles if it went down again
//!    within a minute of its return.
//! 5. If no region is up, all are tried, the one first that was not for the
//!    longest time, and the first good probes end that.
//!
//! Results of requests that began before a region's last change say nothing.

use std::time::Duration;

use tokio::time::Instant;

use self::health::{Health, Turn};
use super::{DownCause, RegionCounts, rules::Rules};
use crate::deadline::far;

mod health;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// The most regions there can be: the tried ones are bits of a word.
pub(super) const MAX_REGIONS: usize = u64::BITS as usize;

/// Where all regions stand.
#[derive(Clone, Debug)]
pub(super) struct Board {
    rules: Rules,
    regions: Vec<Health>,
    /// The region that goes before all others.
    first: usize,
    pinned: Option<usize>,
    /// Counts the tries: which of two regions was tried last needs no clock.
    turn: u64,
    changes: Vec<Change>,
}

/// A try of a request at one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) region: usize,
    pub(super) probe: bool,
    epoch: u64,
    number: u64,
}

/// What a try came to, as far as its region is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Good,
    /// "Not now."
    Refused,
    Failed,
    /// The region's stack lets nothing through, and says for how long.
    Shut(DownCause, Option<Duration>),
    /// It says nothing of the region.
    Nothing,
}

/// A region's change from up to down or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) region: usize,
    /// Why it went down; `None` if it is up again.
    pub(super) down: Option<DownCause>,
    /// The region in use from now on.
    pub(super) active: Option<usize>,
}

/// The regions that a request has been to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried(u64);

impl Tried {
    pub(super) fn add(&mut self, region: usize) {
        self.0 |= 1 << region;
    }

    fn has(self, region: usize) -> bool {
        self.0 & (1 << region) != 0
    }
}

impl Board {
    pub(super) fn new(rules: Rules, regions: usize, now: Instant) -> Self {
        Self {
            rules,
            regions: vec![Health::new(&rules, now); regions],
            first: 0,
            pinned: None,
            turn: 0,
            changes: Vec::new(),
        }
    }

    /// Goes by other rules from now on. Where regions stand stays. Another least
    /// time down holds for those that are down too, and begins its doubling anew;
    /// a probe is never later than the new period has it.
    #[cfg(feature = "config")]
    pub(super) fn go_by(&mut self, rules: Rules, now: Instant) {
        let was = std::mem::replace(&mut self.rules, rules);
        for health in &mut self.regions {
            health.go_by(&was, &rules, now);
        }
    }

    /// Where a new request goes. `safe`: it may go elsewhere whatever comes of
    /// it. `ready`: the region whose service waits to be called.
    pub(super) fn plan(&mut self, now: Instant, safe: bool, ready: Option<usize>) -> Ticket {
        self.expire(now);
        if let Some(pinned) = self.pinned {
            return self.ticket(pinned, now);
        }
        let ready = ready.filter(|region| *region < self.regions.len());
        let Some(active) = self.first_up() else {
            let region = ready.unwrap_or_else(|| self.longest_untried(Tried::default()));
            return self.ticket(region, now);
        };
        let preferred = self.order().take_while(|region| *region != active);
        let region = preferred
            .filter(|region| self.is_due(*region, now, safe))
            .chain(ready.filter(|region| self.is_up(*region) || self.is_due(*region, now, safe)))
            .next();
        self.ticket(region.unwrap_or(active), now)
    }

    /// Where a request goes that was to the `tried` ones in vain.
    pub(super) fn next(&mut self, now: Instant, safe: bool, tried: Tried) -> Option<Ticket> {
        let region = self.candidate(now, safe, tried)?;
        Some(self.ticket(region, now))
    }

    /// Where such a request would go.
    pub(super) fn candidate(&mut self, now: Instant, safe: bool, tried: Tried) -> Option<usize> {
        self.expire(now);
        if let Some(pinned) = self.pinned {
            return (!tried.has(pinned)).then_some(pinned);
        }
        let untried = |region: &usize| !tried.has(*region);
        if self.first_up().is_none() {
            let left = (0..self.regions.len()).any(|region| untried(&region));
            return left.then(|| self.longest_untried(tried));
        }
        let mut order = self.order().filter(untried);
        let up = order.clone().find(|region| self.is_up(*region));
        up.or_else(|| order.find(|region| self.is_due(*region, now, safe)))
    }

    /// The next moment at which there may be another candidate though nothing
    /// happens.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let regions = self.regions.iter();
        let due = regions.filter_map(|health| health.next_due(&self.rules, now));
        due.min()
    }

    /// Learns what a try came to.
    pub(super) fn settle(&mut self, ticket: Ticket, report: Report, now: Instant) {
        let none_up = self.first_up().is_none();
        let health = &mut self.regions[ticket.region];
        if let Some(turn) = health.learn(&self.rules, ticket, report, none_up, now) {
            self.turned(ticket.region, turn, now);
        }
    }

    /// Learns of a region, apart from any try, that it lets nothing through.
    pub(super) fn shut(&mut self, region: usize, cause: DownCause, now: Instant) {
        if self.is_up(region) {
            self.turned(region, Turn::Down(cause, None), now);
        }
    }

    /// Puts a region before all others, in place of the order that was given.
    pub(super) fn prefer(&mut self, region: usize) {
        self.first = region;
        self.pinned = None;
    }

    /// Sends everything to one region, whatever comes of it.
    pub(super) fn pin(&mut self, region: usize) {
        self.pinned = Some(region);
    }

    /// Goes by the rules and by the order that was given.
    pub(super) fn release(&mut self) {
        self.first = 0;
        self.pinned = None;
    }

    pub(super) fn pinned(&self) -> Option<usize> {
        self.pinned
    }

    pub(super) fn preferred(&self) -> usize {
        self.first
    }

    /// The region that requests go to first. `None` while none is up.
    pub(super) fn active(&self) -> Option<usize> {
        self.pinned.or_else(|| self.first_up())
    }

    pub(super) fn counts(&self, region: usize) -> RegionCounts {
        self.regions[region].counts
    }

    /// Why a region is down, if it is, and since when it is as it is.
    pub(super) fn condition(&self, region: usize) -> (Option<DownCause>, Instant) {
        let health = &self.regions[region];
        (health.down(), health.since)
    }

    /// What has changed since this was last asked.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Whether a service that was made ready for a region can still be used.
    pub(super) fn keeps(&self, region: usize) -> bool {
        match self.pinned {
            Some(pinned) => pinned == region,
            None => self.is_up(region) || self.first_up().is_none(),
        }
    }

    fn is_up(&self, region: usize) -> bool {
        self.regions[region].is_up()
    }

    fn first_up(&self) -> Option<usize> {
        self.order().find(|region| self.is_up(*region))
    }

    fn order(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        let (first, count) = (self.first, self.regions.len());
        std::iter::once(first).chain((0..count).filter(move |region| *region != first))
    }

    fn is_due(&self, region: usize, now: Instant, safe: bool) -> bool {
        self.regions[region].is_due(&self.rules, now, safe)
    }

    fn longest_untried(&self, tried: Tried) -> usize {
        let untried = self.order().filter(|region| !tried.has(*region));
        let longest = untried.min_by_key(|region| self.regions[*region].tried);
        longest.unwrap_or(self.first)
    }

    fn ticket(&mut self, region: usize, now: Instant) -> Ticket {
        self.turn += 1;
        let (probe, epoch) = self.regions[region].begin(&self.rules, self.turn, now);
        Ticket {
            region,
            probe,
            epoch,
            number: self.turn,
        }
    }

    fn expire(&mut self, now: Instant) {
        let Some(time) = self.rules.max_down else {
            return;
        };
        for region in 0..self.regions.len() {
            if !self.is_up(region) && now >= far(self.regions[region].since, time) {
                self.turned(region, Turn::Up, now);
            }
        }
    }

    fn turned(&mut self, region: usize, turn: Turn, now: Instant) {
        let health = &mut self.regions[region];
        health.turn(&self.rules, turn, now);
        let down = health.down();
        let active = self.active();
        self.changes.push(Change {
            region,
            down,
            active,
        });
    }
}
