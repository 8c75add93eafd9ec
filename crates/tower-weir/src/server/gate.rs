mod lanes;
mod limits;
mod overdue;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use self::{
    lanes::{Crowd, Lane},
    overdue::Soon,
};
use super::{
    AdmissionConfig, Class,
    drain::{Drain, Service},
    places::{Arrivals, Operation, Places},
    rejection::Why,
    slots::{Slot, Slots},
};
use crate::{
    BoxError,
    admit::{
        Heads, Key, Since,
        gate::{Answer, Ask, End, Gate, HeadEnd, How, Queued, sealed::Sealed},
    },
    deadline::far,
    observe::{Event, Events},
    outcome::Verdict,
};

/// How often at most it is told that operations are delayed.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Bodies that may be held for less are kept by their entry, one by one. An
/// operation without a head is looked at again every `max_hold`, which with so
/// short a one would keep those who wait awake.
pub(super) const LEAST_HOLD: Duration = Duration::from_millis(100);

/// The gate of [`AdmissionLayer`](super::AdmissionLayer): the pending operations
/// of one key, and what they may come to.
///
/// Its beginning is all that an operation touches which is not delayed: two threads
/// hand these lines of the cache to and fro.
#[derive(Debug)]
#[repr(C)]
pub struct ServerGate {
    slots: Slots,
    /// The weight of all that is pending, and how much may be.
    weight: usize,
    reject_at: usize,
    service: Service,
    /// The operations of [`Class::RECORD`], which most are.
    records: Lane,
    record: usize,
    delayed: usize,
    /// Whether there are limits that few set, or the storage is full.
    strict: bool,
    /// Before this, no body has been with its caller for too long.
    due: Option<Instant>,
    pending: Places,
    since: Since,
    /// The other lanes, and what only matters in any while some are delayed or
    /// rejected.
    lanes: Vec<(Lane, Crowd)>,
    soon: Soon,
    /// Those that are pending, if their age is limited.
    arrivals: Option<Arrivals>,
    /// The size of all bodies that are pending, while the gate is strict. Wider than
    /// what any of them may say of itself.
    bytes: u128,
    drain: Drain,
    told: Option<Instant>,
    config: AdmissionConfig,
}

impl ServerGate {
    fn is_overdue(&self, place: Key, now: Instant) -> bool {
        let operation = self.pending.get(place);
        operation.is_some_and(|operation| !operation.runs && now > operation.turn)
    }

    /// A newcomer runs.
    #[inline]
    fn begin(&mut self, ask: &Ask, slot: Slot) -> Key {
        let place = self.add(ask, ask.now, true);
        self.run(ask, place, slot);
        place
    }

    #[inline]
    fn run(&mut self, ask: &Ask, place: Key, slot: Slot) {
        self.lane_mut(ask.load.lane).running += 1;
        self.slots.keep(place.place(), slot);
        if self.due.is_none() {
            self.expect_heads(ask.now);
        }
    }

    #[cold]
    fn expect_heads(&mut self, now: Instant) {
        if self.config.max_hold >= LEAST_HOLD {
            self.due = Some(far(now, self.config.max_hold));
        }
    }

    #[inline]
    fn add(&mut self, ask: &Ask, turn: Instant, runs: bool) -> Key {
        let (weight, load) = (ask.weight, ask.load);
        self.weight += weight;
        let operation = Operation {
            came: ask.now,
            turn,
            weight,
            bytes: load.bytes,
            lane: load.lane as u32,
            runs,
        };
        let key = self.pending.insert(operation);
        if self.strict {
            self.add_strictly(key, load.bytes);
        }
        key
    }

    #[cold]
    fn add_strictly(&mut self, key: Key, bytes: u64) {
        self.bytes += u128::from(bytes);
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.push(key, &self.pending);
        }
    }

    #[inline]
    fn remove(&mut self, key: Key) -> Option<Operation> {
        let operation = self.pending.remove(key)?;
        self.weight -= operation.weight;
        if self.strict {
            self.remove_strictly(operation.bytes);
        }
        Some(operation)
    }

    #[cold]
    fn remove_strictly(&mut self, bytes: u64) {
        self.bytes -= u128::from(bytes);
    }

    /// Keeps what of the settings every operation asks for where it looks.
    fn adopt(&mut self) {
        let limits = &self.config.limits;
        self.reject_at = limits.reject_at;
        let was_strict = self.strict;
        self.strict = limits.max_bytes.is_some()
            || limits.max_age.is_some()
            || self.config.storage >= limits.storage_mark;
        if self.strict && !was_strict {
            let sizes = self.pending.iter();
            self.bytes = sizes.map(|(_, it)| u128::from(it.bytes)).sum();
        }
        if limits.max_age.is_none() {
            self.arrivals = None;
        } else if self.arrivals.is_none() {
            self.arrivals = Some(Arrivals::new(&self.pending));
        }
        for index in 0..self.lanes.len() {
            let (_, limits) = self.config.lane(index);
            let (throttle_at, reject_at) = (limits.throttle_at, limits.reject_at);
            let lane = self.lane_mut(index);
            lane.throttle_at = throttle_at.unwrap_or(usize::MAX);
            lane.reject_at = reject_at.unwrap_or(usize::MAX);
        }
    }
}

/// Whether an end says how long operations take.
#[inline]
fn is_counted(how: How) -> bool {
    matches!(how, How::Outcome(outcome) if outcome.verdict != Verdict::Ignored)
}

impl Sealed for ServerGate {}

impl Gate for ServerGate {
    type Config = AdmissionConfig;
    type Ticket = Key;

    fn open(config: &AdmissionConfig, _: &Arc<str>, seed: u64, now: Instant) -> Self {
        let mut gate = Self {
            slots: Slots::new(config, seed, now),
            weight: 0,
            reject_at: 0,
            service: Service::default(),
            records: Lane::default(),
            record: config.lane_of(Class::RECORD),
            delayed: 0,
            strict: false,
            due: None,
            pending: Places::default(),
            since: Since(now),
            lanes: (0..config.lanes()).map(|_| Default::default()).collect(),
            soon: Soon::default(),
            arrivals: None,
            bytes: 0,
            drain: Drain::default(),
            told: None,
            config: config.clone(),
        };
        gate.adopt();
        gate
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
        let Some(slot) = self.slots.ask(ask, events) else {
            return Answer::Wait;
        };
        let Some(place) = ask.place else {
            return Answer::Go(self.begin(&ask, slot));
        };
        self.run(&ask, place, slot);
        self.undelay(lane, ask.now);
        if let Some(operation) = self.pending.get_mut(place) {
            operation.turn = ask.now;
            operation.runs = true;
        }
        Answer::Go(place)
    }

    #[inline]
    fn admit(&mut self, ask: &Ask) -> Option<Key> {
        if self.is_blocked(ask.load.lane) || self.broken(ask).is_some() {
            return None;
        }
        let slot = self.slots.take(ask.weight)?;
        Some(self.begin(ask, slot))
    }

    fn refuses(&self, _: Instant) -> Option<BoxError> {
        None
    }

    fn is_shut(&self, _: Instant) -> bool {
        false
    }

    // Since when it ran is known here. Whoever ends it begins with its head, or with
    // its end.
    fn settle(&mut self, key: Key, end: &End, events: &mut Events) {
        let Some(operation) = self.remove(key) else {
            return;
        };
        let began = operation.turn;
        let took = end.now.saturating_duration_since(began);
        self.ended(&operation, end.now, is_counted(end.how).then_some(took));
        let whole = || End {
            started: began,
            rtt: end.started.saturating_duration_since(began) + end.rtt,
            ..*end
        };
        self.slots
            .settle(key.place(), operation.weight, whole, events);
    }

    #[inline]
    fn settle_quietly(&mut self, key: Key, heads: &Heads, head: Instant) -> Option<bool> {
        if self.slots.are_found() {
            return None;
        }
        let Some(operation) = self.remove(key) else {
            return Some(false);
        };
        heads.clear(key.place());
        let lane = operation.lane as usize;
        self.took(lane, head.saturating_duration_since(operation.turn));
        self.lane_mut(lane).running -= 1;
        self.slots.free(operation.weight);
        Some(true)
    }

    #[inline]
    fn settle_head(&mut self, key: Key, heads: &Heads, end: &HeadEnd, events: &mut Events) -> bool {
        let Some(operation) = self.remove(key) else {
            return false;
        };
        let began = operation.turn;
        let head = heads.take(key.place()).map(|head| self.since.moment(head));
        let head = head.unwrap_or(began);
        let ended = if end.at_once { head } else { end.now };
        let took = ended.saturating_duration_since(began);
        self.ended(&operation, end.now, is_counted(end.how).then_some(took));
        let whole = || End {
            started: began,
            now: end.now,
            rtt: match end.unary {
                true => took,
                false => head.saturating_duration_since(began),
            },
            how: end.how,
        };
        self.slots
            .settle(key.place(), operation.weight, whole, events);
        true
    }

    fn next_event(&self, weight: usize, now: Instant) -> Option<Instant> {
        self.slots.next_event(weight, now)
    }

    fn reconfigure(&mut self, config: &AdmissionConfig, now: Instant, events: &mut Events) {
        self.config = config.clone();
        self.adopt();
        self.slots.reconfigure(config, now, events);
        self.crowd(now);
    }

    fn closed_until(&self, _: Instant) -> Option<Instant> {
        None
    }

    fn limit(&self) -> Option<usize> {
        Some(self.slots.limit())
    }

    fn srtt(&self) -> Option<Duration> {
        None
    }

    fn hold(&self, _: Key) -> Option<Duration> {
        Some(self.config.max_hold)
    }

    fn since(&self) -> Option<Since> {
        Some(self.since)
    }

    #[inline]
    fn place(key: Key) -> usize {
        key.place()
    }

    #[inline]
    fn overdue_at(&self) -> Option<Instant> {
        self.due
    }

    fn overdue(&mut self, heads: &Heads, now: Instant) -> Vec<(Key, End)> {
        self.find_overdue(heads, now)
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
        let lane = self.lane(lane);
        lane.running >= lane.throttle_at
    }

    fn rejects(&mut self, ask: &Ask, _: &mut Events) -> Option<BoxError> {
        let why = self.broken(ask)?;
        Some(self.reject(why, ask.load.lane, ask.now).into())
    }

    fn queue(&mut self, ask: &Ask, events: &mut Events) -> Queued {
        let (lane, now) = (ask.load.lane, ask.now);
        let delay = self.config.lane(lane).1.max_delay;
        let until = far(now, delay.unwrap_or(self.config.limits.max_delay));
        let place = self.add(ask, until, false);
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
            until: Some(until),
        }
    }

    fn leave(&mut self, place: Key, now: Instant) {
        if let Some(operation) = self.remove(place) {
            self.undelay(operation.lane as usize, now);
        }
    }

    fn lose_patience(&mut self, place: Key, now: Instant) -> Option<BoxError> {
        let operation = self.pending.get(place)?;
        let delay = now.saturating_duration_since(operation.came);
        let lane = operation.lane as usize;
        Some(self.reject(Why::Delayed { delay }, lane, now).into())
    }
}
