#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    AdmissionConfig, ClassSnapshot, KeySnapshot, Reason, Rejected, Rejections,
    drain::Drain,
    rejection::Why,
    slots::{Slot, Slots, fits},
};
use crate::{
    BoxError,
    admit::{
        Heads, Key, List,
        gate::{Answer, Ask, End, Gate, How, Load, Queued, sealed::Sealed},
    },
    deadline::far,
    observe::{Event, Events},
    outcome::{Outcome, Verdict},
};

/// How often at most it is told that operations are delayed.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Bodies that may be held for less are kept by their entry, one by one. An
/// operation without a head is looked at again every `max_hold`, which with so
/// short a one would keep those who wait awake.
pub(super) const LEAST_HOLD: Duration = Duration::from_millis(100);

/// The gate of [`AdmissionLayer`](super::AdmissionLayer): the pending operations
/// of one key, and what they may come to.
#[derive(Debug)]
pub struct ServerGate {
    config: AdmissionConfig,
    slots: Slots,
    /// The pending operations, by lane in the order in which they came.
    pending: List<Operation>,
    lanes: Vec<Lane>,
    /// The weight of all that is pending.
    weight: usize,
    /// Wider than what any of them may say of itself.
    bytes: u128,
    delayed: usize,
    drain: Drain,
    told: Option<Instant>,
    /// Before this, no body has been with its caller for too long.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Operation {
    came: Instant,
    /// When its turn was, once it runs.
    began: Instant,
    weight: usize,
    load: Load,
    /// Until when it may be delayed, if it had to be.
    until: Option<Instant>,
    /// Once it runs.
    slot: Option<Slot>,
}

#[derive(Debug, Default)]
struct Lane {
    running: usize,
    delayed: usize,
    bytes: u128,
    rejected: Rejections,
    drain: Drain,
}

impl Lane {
    fn pending(&self) -> usize {
        self.running + self.delayed
    }
}

impl ServerGate {
    pub(super) fn snapshot(&self, key: Arc<str>, now: Instant) -> KeySnapshot {
        let classes = self.lanes.iter().enumerate().rev().map(|(index, lane)| {
            let oldest = self.oldest(index);
            ClassSnapshot {
                class: self.config.lane(index).0.name(),
                pending: lane.pending(),
                delayed: lane.delayed,
                rejected: lane.rejected,
                oldest: oldest.map(|came| now.saturating_duration_since(came)),
                bytes: whole(lane.bytes),
            }
        });
        KeySnapshot {
            key,
            limit: self.slots.limit(&self.config),
            weight: self.weight,
            classes: classes.collect(),
        }
    }

    /// When the oldest pending operation of a lane came.
    fn oldest(&self, lane: usize) -> Option<Instant> {
        let key = self.pending.front(lane)?;
        self.pending.get(key).map(|operation| operation.came)
    }

    /// Which limit one more operation would break.
    #[inline]
    fn broken(&self, ask: &Ask) -> Option<Why> {
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
        if let Some(limit) = limits.max_age {
            let oldest = (0..self.lanes.len()).filter_map(|lane| self.oldest(lane));
            let oldest = oldest.min().map(|came| now.saturating_duration_since(came));
            if let Some(oldest) = oldest.filter(|oldest| *oldest > limit) {
                return Some(Why::Age { oldest, limit });
            }
        }
        let (pending, limit) = (self.weight, limits.reject_at);
        let alone = pending == 0 && limit > 0;
        if !alone && !fits(pending, ask.weight, limit) {
            return Some(Why::Pending { pending, limit });
        }
        let pending = self.lanes[load.lane].pending();
        let limit = self.config.lane(load.lane).1.reject_at?;
        (pending >= limit).then_some(Why::PendingOfClass { pending, limit })
    }

    fn reject(&mut self, why: Why, lane: usize, now: Instant) -> Rejected {
        let mut rejected = Rejected {
            why,
            class: self.config.lane(lane).0.name(),
            retry_after: None,
        };
        let reason = rejected.reason();
        rejected.retry_after = (reason != Reason::StorageFull).then(|| self.drained_in(lane, now));
        self.lanes[lane].rejected.count(reason);
        rejected
    }

    /// In what time what is pending now will be done: all of it, and that of a
    /// class, which may be slower.
    fn drained_in(&self, index: usize, now: Instant) -> Duration {
        let age = |lane| match self.oldest(lane) {
            Some(came) => now.saturating_duration_since(came),
            None => Duration::ZERO,
        };
        let oldest = (0..self.lanes.len()).map(age).max().unwrap_or_default();
        let running = self.slots.running();
        let all = self.drain.time_for(self.weight, running, oldest, now);
        let lane = &self.lanes[index];
        match lane.pending() {
            0 => all,
            own => all.max(lane.drain.time_for(own, lane.running, age(index), now)),
        }
    }

    fn is_overdue(&self, place: Key, now: Instant) -> bool {
        let operation = self.pending.get(place);
        let until = operation.and_then(|operation| operation.until);
        until.is_some_and(|until| now > until)
    }

    /// A newcomer runs.
    #[inline]
    fn begin(&mut self, ask: &Ask, slot: Slot) -> Key {
        self.run(ask);
        self.add(Operation {
            came: ask.now,
            began: ask.now,
            weight: ask.weight,
            load: ask.load,
            until: None,
            slot: Some(slot),
        })
    }

    #[inline]
    fn run(&mut self, ask: &Ask) {
        self.lanes[ask.load.lane].running += 1;
        if self.due.is_none() && self.config.max_hold >= LEAST_HOLD {
            self.due = Some(far(ask.now, self.config.max_hold));
        }
    }

    #[inline]
    fn add(&mut self, operation: Operation) -> Key {
        let lane = operation.load.lane;
        self.weight += operation.weight;
        let bytes = u128::from(operation.load.bytes);
        self.bytes += bytes;
        self.lanes[lane].bytes += bytes;
        self.pending.push_back(lane, operation)
    }

    #[inline]
    fn remove(&mut self, key: Key) -> Option<Operation> {
        let operation = self.pending.remove(key)?;
        self.weight -= operation.weight;
        let bytes = u128::from(operation.load.bytes);
        self.bytes -= bytes;
        self.lanes[operation.load.lane].bytes -= bytes;
        Some(operation)
    }

    fn delay(&mut self, index: usize, now: Instant) {
        self.delayed += 1;
        self.lanes[index].delayed += 1;
        self.crowd(now);
    }

    /// Finds out whether somebody waits in a class, and whether somebody waits for
    /// all and not for its own class, which says nothing of how fast all get done.
    /// Nor does a pause, which somebody has asked for.
    fn crowd(&mut self, now: Instant) {
        let open = self.slots.limit(&self.config) > 0;
        let mut crowded = false;
        for lane in 0..self.lanes.len() {
            let waits = open && self.lanes[lane].delayed > 0;
            crowded |= waits && !self.is_blocked(lane);
            let paused = self.config.lane(lane).1.throttle_at == Some(0);
            self.lanes[lane].drain.crowd(now, waits && !paused);
        }
        self.drain.crowd(now, crowded);
    }

    fn undelay(&mut self, index: usize, now: Instant) {
        self.delayed -= 1;
        self.lanes[index].delayed -= 1;
        self.crowd(now);
    }
}

/// As many bytes as can be told.
fn whole(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Sealed for ServerGate {}

impl Gate for ServerGate {
    type Config = AdmissionConfig;
    type Ticket = Key;

    const HEADS: bool = true;

    fn open(config: &AdmissionConfig, _: &Arc<str>, seed: u64, now: Instant) -> Self {
        Self {
            slots: Slots::new(config, seed, now),
            pending: List::new(config.lanes()),
            lanes: (0..config.lanes()).map(|_| Lane::default()).collect(),
            config: config.clone(),
            weight: 0,
            bytes: 0,
            delayed: 0,
            drain: Drain::default(),
            told: None,
            due: None,
        }
    }

    fn ask(&mut self, ask: Ask, events: &mut Events) -> Answer<Key> {
        let lane = ask.load.lane;
        // It would have left, had its task been run in time: a server that is
        // behind with its tasks must not begin later than it promised.
        if let Some(place) = ask.place
            && self.is_overdue(place, ask.now)
            && let Some(late) = self.lose_patience(place, ask.now)
        {
            return Answer::Refuse(late);
        }
        if self.is_blocked(lane) {
            return Answer::Wait;
        }
        let Some(slot) = self.slots.ask(ask, &self.config, events) else {
            return Answer::Wait;
        };
        let Some(place) = ask.place else {
            return Answer::Go(self.begin(&ask, slot));
        };
        self.run(&ask);
        self.undelay(lane, ask.now);
        if let Some(operation) = self.pending.get_mut(place) {
            operation.began = ask.now;
            operation.slot = Some(slot);
        }
        Answer::Go(place)
    }

    #[inline]
    fn admit(&mut self, ask: &Ask) -> Option<Key> {
        if self.is_blocked(ask.load.lane) || self.broken(ask).is_some() {
            return None;
        }
        let slot = self.slots.take(ask.weight, &self.config)?;
        Some(self.begin(ask, slot))
    }

    fn refuses(&self, _: Instant) -> Option<BoxError> {
        None
    }

    fn is_shut(&self, _: Instant) -> bool {
        false
    }

    #[inline]
    fn settle(&mut self, key: Key, end: &End, events: &mut Events) {
        let Some(operation) = self.remove(key) else {
            return;
        };
        let lane = &mut self.lanes[operation.load.lane];
        if matches!(end.how, How::Outcome(outcome) if outcome.verdict != Verdict::Ignored) {
            let took = end.now.saturating_duration_since(end.started);
            let (weight, running) = (operation.weight, self.slots.running());
            lane.drain.ended(end.now, 1, lane.running, took);
            self.drain.ended(end.now, weight, running, took);
        }
        lane.running -= 1;
        if self.delayed > 0 {
            self.crowd(end.now);
        }
        if let Some(slot) = operation.slot {
            self.slots.settle(slot, end, events);
        }
    }

    fn next_event(&self, weight: usize, now: Instant) -> Option<Instant> {
        self.slots.next_event(weight, now)
    }

    fn reconfigure(&mut self, config: &AdmissionConfig, now: Instant, events: &mut Events) {
        self.config = config.clone();
        self.slots.reconfigure(config, now, events);
        self.crowd(now);
    }

    fn closed_until(&self, _: Instant) -> Option<Instant> {
        None
    }

    fn limit(&self) -> Option<usize> {
        Some(self.slots.limit(&self.config))
    }

    fn srtt(&self) -> Option<Duration> {
        None
    }

    fn hold(&self, _: Key) -> Option<Duration> {
        None
    }

    #[inline]
    fn place(key: Key) -> usize {
        key.place()
    }

    #[inline]
    fn is_out(&self, key: Key) -> bool {
        self.pending.get(key).is_some()
    }

    #[inline]
    fn overdue_at(&self) -> Option<Instant> {
        self.due
    }

    #[cold]
    fn overdue(&mut self, heads: &Heads, now: Instant) -> Vec<(Key, End)> {
        let hold = self.config.max_hold;
        let (mut overdue, mut due) = (Vec::new(), None::<Instant>);
        let sooner = |due: Option<Instant>, at| Some(due.map_or(at, |due: Instant| due.min(at)));
        for lane in 0..self.lanes.len() {
            for (key, operation) in self.pending.queue(lane) {
                let soonest = far(operation.came, hold);
                if soonest > now {
                    // Nor can any be that came later, of which there may be many.
                    due = sooner(due, soonest);
                    break;
                }
                if operation.slot.is_none() {
                    continue;
                }
                let head = heads.get(key.place());
                // One that has none yet has all the time from now on.
                let until = far(head.unwrap_or(now), hold);
                if let Some(head) = head.filter(|_| until <= now) {
                    let how = How::Outcome(Outcome::success());
                    let end = End::new(Some(operation.began), head, how);
                    overdue.push((key, End { now, ..end }));
                } else {
                    due = sooner(due, until);
                }
            }
        }
        self.due = due;
        overdue
    }

    fn bodies(&self, heads: &Heads) -> usize {
        let out = |(key, _): &(Key, _)| heads.get(key.place()).is_some();
        self.pending.iter().filter(out).count()
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    #[inline]
    fn is_blocked(&self, lane: usize) -> bool {
        let limit = self.config.lane(lane).1.throttle_at;
        limit.is_some_and(|limit| self.lanes[lane].running >= limit)
    }

    fn rejects(&mut self, ask: &Ask, _: &mut Events) -> Option<BoxError> {
        let why = self.broken(ask)?;
        Some(self.reject(why, ask.load.lane, ask.now).into())
    }

    fn queue(&mut self, ask: &Ask, events: &mut Events) -> Queued {
        let (lane, now) = (ask.load.lane, ask.now);
        let delay = self.config.lane(lane).1.max_delay;
        let until = Some(far(now, delay.unwrap_or(self.config.limits.max_delay)));
        let place = self.add(Operation {
            came: now,
            began: now,
            weight: ask.weight,
            load: ask.load,
            until,
            slot: None,
        });
        self.delay(lane, now);
        let told = self.told.filter(|told| now < far(*told, TOLD_EVERY));
        if told.is_none() {
            self.told = Some(now);
            events.push(Event::Delaying {
                pending: self.weight,
            });
        }
        Queued {
            place: Some(place),
            until,
        }
    }

    fn leave(&mut self, place: Key, now: Instant) {
        if let Some(operation) = self.remove(place) {
            self.undelay(operation.load.lane, now);
        }
    }

    fn lose_patience(&mut self, place: Key, now: Instant) -> Option<BoxError> {
        let operation = self.pending.get(place)?;
        let (lane, delay) = (
            operation.load.lane,
            now.saturating_duration_since(operation.came),
        );
        Some(self.reject(Why::Delayed { delay }, lane, now).into())
    }
}
