use std::time::Duration;

use tokio::time::Instant;

use crate::circuit_breaker::{Counts, Probes};

/// The probes of one half-open phase.
#[derive(Debug, Default)]
pub(super) struct Round {
    flying: Vec<Probe>,
    good: u32,
    bad: u32,
    /// The latest moment that a failed probe's response asked us to wait for.
    hinted: Option<Instant>,
}

#[derive(Debug)]
struct Probe {
    epoch: u64,
    /// When its lease ends; `None` if that is beyond what the clock can say.
    until: Option<Instant>,
}

impl Probe {
    fn expired(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

impl Round {
    pub(super) fn grant(&mut self, epoch: u64, lease: Duration, now: Instant) {
        let until = now.checked_add(lease);
        self.flying.push(Probe { epoch, until });
    }

    /// Forgets the probes that outlived their lease, and with them their epochs.
    pub(super) fn expire(&mut self, now: Instant) {
        self.flying.retain(|probe| !probe.expired(now));
    }

    /// Takes back the probe of this epoch. `None` if it was replaced, or is of
    /// another round.
    pub(super) fn take(&mut self, epoch: u64) -> Option<()> {
        let at = self.flying.iter().position(|probe| probe.epoch == epoch)?;
        self.flying.swap_remove(at);
        Some(())
    }

    pub(super) fn settle(&mut self, good: bool, hinted: Option<Instant>) {
        if good {
            self.good += 1;
        } else {
            self.bad += 1;
            self.hinted = self.hinted.max(hinted);
        }
    }

    /// Starts counting anew; what is in flight goes on.
    pub(super) fn restart(&mut self) {
        self.good = 0;
        self.bad = 0;
        self.hinted = None;
    }

    pub(super) fn room(&self, probes: &Probes, now: Instant) -> u32 {
        let flying = self.live(now).count() as u32;
        probes.room(self.good + self.bad, flying)
    }

    pub(super) fn decide(&self, probes: &Probes) -> Option<bool> {
        probes.decide(self.good, self.bad)
    }

    pub(super) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        self.live(now).filter_map(|probe| probe.until).min()
    }

    fn live(&self, now: Instant) -> impl Iterator<Item = &Probe> {
        self.flying.iter().filter(move |probe| !probe.expired(now))
    }

    pub(super) fn hinted(&self) -> Option<Instant> {
        self.hinted
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            calls: u64::from(self.good) + u64::from(self.bad),
            failed: u64::from(self.bad),
            slow: 0,
        }
    }
}
