//! Which limits an operation would break, and what is told of those that are pending.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::ServerGate;
use crate::{
    admit::{Key, gate::Ask},
    server::{ClassSnapshot, KeySnapshot, Reason, Rejected, rejection::Why, slots::fits},
};

impl ServerGate {
    pub(in crate::server) fn snapshot(&self, key: Arc<str>, now: Instant) -> KeySnapshot {
        let mut found = vec![(0, None::<Key>); self.lanes.len()];
        for (key, operation) in self.pending.iter() {
            let (bytes, oldest) = &mut found[operation.lane as usize];
            *bytes += u128::from(operation.bytes);
            if oldest.is_none_or(|oldest| key.is_older_than(oldest)) {
                *oldest = Some(key);
            }
        }
        let age = |key| {
            let came = self.pending.get(key)?.came;
            Some(now.saturating_duration_since(came))
        };
        let lanes = self.lanes.iter().zip(found).enumerate().rev();
        let classes = lanes.map(|(index, ((_, crowd), (bytes, oldest)))| {
            let lane = self.lane(index);
            ClassSnapshot {
                class: self.config.lane(index).0.name(),
                pending: lane.pending(),
                delayed: lane.delayed,
                rejected: crowd.rejected,
                oldest: oldest.and_then(age),
                bytes: whole(bytes),
            }
        });
        KeySnapshot {
            key,
            limit: self.slots.limit(),
            weight: self.weight,
            classes: classes.collect(),
        }
    }

    /// When the oldest pending operation of a lane came. If that has ended which was
    /// it before, looks at all.
    fn oldest(&mut self, lane: usize) -> Option<Instant> {
        if self.lane(lane).pending() == 0 {
            return None;
        }
        let known = self.lanes[lane].1.oldest;
        let known = known.filter(|key| self.pending.get(*key).is_some());
        let oldest = known.or_else(|| {
            let all = self.pending.iter();
            let own = all.filter(|(_, operation)| operation.lane as usize == lane);
            own.map(|(key, _)| key)
                .reduce(|a, b| if b.is_older_than(a) { b } else { a })
        });
        self.lanes[lane].1.oldest = oldest;
        Some(self.pending.get(oldest?)?.came)
    }

    /// For how long the oldest of a lane has been here.
    fn age(&mut self, lane: usize, now: Instant) -> Duration {
        let oldest = self.oldest(lane);
        oldest.map_or(Duration::ZERO, |came| now.saturating_duration_since(came))
    }

    /// Which limit one more operation would break.
    #[inline]
    pub(super) fn broken(&mut self, ask: &Ask) -> Option<Why> {
        if self.strict
            && let Some(why) = self.broken_strictly(ask)
        {
            return Some(why);
        }
        let (pending, limit) = (self.weight, self.reject_at);
        let alone = || pending == 0 && limit > 0;
        if !fits(pending, ask.weight, limit) && !alone() {
            return Some(Why::Pending { pending, limit });
        }
        let lane = self.lane(ask.load.lane);
        let (pending, limit) = (lane.pending(), lane.reject_at);
        (pending >= limit).then_some(Why::PendingOfClass { pending, limit })
    }

    /// Which of the limits that few set.
    #[cold]
    fn broken_strictly(&mut self, ask: &Ask) -> Option<Why> {
        let (now, load, limits) = (ask.now, ask.load, &self.config.limits);
        let level = self.config.storage;
        if !load.frees && level >= limits.storage_mark {
            return Some(Why::Storage { level });
        }
        if let Some(limit) = limits.max_bytes
            && self.bytes > 0
            && self.bytes + u128::from(load.bytes) > u128::from(limit)
        {
            let pending = whole(self.bytes);
            return Some(Why::Bytes { pending, limit });
        }
        let (limit, arrivals) = (limits.max_age?, self.arrivals.as_mut()?);
        let came = arrivals.first(&self.pending)?.came;
        let oldest = now.saturating_duration_since(came);
        (oldest > limit).then_some(Why::Age { oldest, limit })
    }

    pub(super) fn reject(&mut self, why: Why, lane: usize, now: Instant) -> Rejected {
        let mut rejected = Rejected {
            why,
            class: self.config.lane(lane).0.name(),
            retry_after: None,
        };
        let reason = rejected.reason();
        rejected.retry_after = (reason != Reason::StorageFull).then(|| self.drained_in(lane, now));
        self.lanes[lane].1.rejected.count(reason);
        rejected
    }

    /// In what time what is pending now will be done: all of it, and that of a
    /// class, which may be slower.
    pub(super) fn drained_in(&mut self, index: usize, now: Instant) -> Duration {
        // Ages stand in for what no operation has shown yet.
        let age = match self.service.get() {
            Some(_) => Duration::ZERO,
            None => {
                let ages = (0..self.lanes.len()).map(|lane| self.age(lane, now));
                ages.max().unwrap_or_default()
            }
        };
        let (drain, running) = (&self.drain, self.slots.running());
        let all = drain.time_for(self.weight, running, self.service, age, now);
        let own = self.lane(index).pending();
        if own == 0 {
            return all;
        }
        let service = self.lane(index).service;
        let age = match service.get() {
            Some(_) => Duration::ZERO,
            None => self.age(index, now),
        };
        let (drain, running) = (&self.lanes[index].1.drain, self.lane(index).running);
        all.max(drain.time_for(own, running, service, age, now))
    }
}

/// As many bytes as can be told.
fn whole(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
