//! Which limits an operation would break, and what is told of those that are pending.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::ServerGate;
use crate::{
    admit::gate::Ask,
    server::{ClassSnapshot, KeySnapshot, Reason, Rejected, rejection::Why, slots::fits},
};

impl ServerGate {
    pub(in crate::server) fn snapshot(&mut self, key: Arc<str>, now: Instant) -> KeySnapshot {
        let mut bytes = vec![0; self.lanes.len()];
        for (_, operation) in self.pending.iter() {
            bytes[operation.lane as usize] += u128::from(operation.bytes);
        }
        let oldest = (0..self.lanes.len()).map(|lane| self.oldest(lane));
        let oldest = oldest.collect::<Vec<_>>();
        let classes = self
            .lanes
            .iter()
            .enumerate()
            .rev()
            .map(|(index, (_, crowd))| {
                let (lane, oldest) = (self.lane(index), oldest[index]);
                ClassSnapshot {
                    class: self.config.lane(index).0.name(),
                    pending: lane.pending(),
                    delayed: lane.delayed,
                    rejected: crowd.rejected,
                    oldest: oldest.map(|came| now.saturating_duration_since(came)),
                    bytes: whole(bytes[index]),
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
        let operation = self.pending.get(oldest?)?;
        Some(self.since.moment(operation.came))
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
        let alone = pending == 0 && limit > 0;
        if !alone && !fits(pending, ask.weight, limit) {
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
        let limit = limits.max_age?;
        let age = |came| now.saturating_duration_since(came);
        if age(self.since.moment(self.oldest)) <= limit {
            return None;
        }
        // It is looked for only when it may be too old.
        let oldest = (0..self.lanes.len()).filter_map(|lane| self.oldest(lane));
        let oldest = oldest.min().unwrap_or(now);
        self.oldest = self.since.nanos(oldest);
        let oldest = age(oldest);
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
