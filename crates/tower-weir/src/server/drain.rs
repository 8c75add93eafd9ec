use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// How far back the rate looks, in time during which operations waited. Long
/// enough for slow operations, short enough to follow a server that loses half
/// its capacity.
const WINDOW: Duration = Duration::from_secs(10);

/// Typical operations that the window holds at least, one after the other.
const WINDOW_SERVICES: u32 = 16;

/// Rounds of operations that have to be done before their rate alone is trusted,
/// and not the time of one, which is the same in the long run but varies more
/// where operations differ.
const ENOUGH: u64 = 8;

/// The finest that is told apart, as a part of what has been measured.
const PARTS: u32 = 16;

/// How fast operations get done while there are more of them than can run.
///
/// Only such times count: what a server does when it has little to do says
/// nothing about what it can do. Each begins with an operation that ends. As many
/// as run then can end with it, in no time, so that many short times would make a
/// great rate of them: they are not counted, and at a constant rate the measured
/// one is never greater.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// The time measured so far, up to `since`, from which on it runs.
    clock: Duration,
    since: Option<Instant>,
    crowded: bool,
    /// How much that ends is not to be counted yet.
    surplus: u64,
    /// What was done, by the clock; what was done up to `base` is forgotten.
    done: VecDeque<Done>,
    base: Duration,
}

/// A typical operation's time, whether others waited or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    // The greatest of all until one is known. In nanoseconds: dividing a Duration is
    // a good part of what an operation costs here.
    nanos: u64,
}

impl Default for Service {
    fn default() -> Self {
        Self { nanos: u64::MAX }
    }
}

impl Service {
    /// An operation took so long.
    #[inline]
    pub(super) fn took(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos = match self.nanos {
            u64::MAX => nanos,
            known => known - known / 8 + nanos / 8,
        };
    }

    pub(super) fn get(self) -> Option<Duration> {
        (self.nanos != u64::MAX).then(|| Duration::from_nanos(self.nanos))
    }
}

#[derive(Debug)]
struct Done {
    begin: Duration,
    end: Duration,
    weight: u64,
}

impl Drain {
    /// Operations wait from now on, or none does any more.
    pub(super) fn crowd(&mut self, now: Instant, crowded: bool) {
        if !crowded {
            self.clock = self.clock(now);
            self.since = None;
        }
        self.crowded = crowded;
    }

    /// An operation has ended, one of `running`, which take so long.
    pub(super) fn ended(&mut self, now: Instant, weight: usize, running: usize, service: Service) {
        if !self.crowded {
            return;
        }
        let clock = self.clock(now);
        if self.since.is_none() {
            self.since = Some(now);
            // That of the first time is taken off the sum.
            self.surplus = if clock.is_zero() { 0 } else { running as u64 };
        }
        let weight = weight as u64;
        let counted = weight.saturating_sub(self.surplus);
        self.surplus -= weight - counted;
        if counted == 0 || self.since == Some(now) {
            return;
        }
        let service = service.get().unwrap_or_default();
        let window = WINDOW.max(service.saturating_mul(WINDOW_SERVICES));
        // No longer than the window, or what follows a pause is one part with it.
        let grain = (clock - self.base).min(window) / PARTS;
        match self.done.back_mut() {
            Some(last) if clock - last.begin <= grain => {
                last.end = clock;
                last.weight = last.weight.saturating_add(counted);
            }
            _ => self.done.push_back(Done {
                begin: clock,
                end: clock,
                weight: counted,
            }),
        }
        while let (Some(first), Some(second)) = (self.done.front(), self.done.get(1))
            && second.end + window < clock
        {
            self.base = first.end;
            self.done.pop_front();
        }
    }

    /// How long `pending` will take that has `running` of it under way, the oldest
    /// for `age`; at a constant rate never too short.
    pub(super) fn time_for(
        &self,
        pending: usize,
        running: usize,
        service: Service,
        age: Duration,
        now: Instant,
    ) -> Duration {
        let running = running.max(1) as u64;
        // The last of operations that begin together takes as long as a whole round.
        let rounds = (pending.max(1) as u64).div_ceil(running);
        let pending = rounds.saturating_mul(running);
        let done = self.done.iter().map(|done| done.weight);
        let done = done.fold(0, u64::saturating_add);
        // Operations that began together end nearly together: as many as run can
        // have been counted before their time.
        let by_rate = match done.saturating_sub(running) {
            0 => Duration::ZERO,
            sure => scale(self.clock(now) - self.base, pending, sure),
        };
        if done > running.saturating_mul(ENOUGH) {
            return by_rate;
        }
        let service = service.get().unwrap_or(age);
        by_rate.max(scale(service, rounds, 1))
    }

    /// Never before what has been done: threads read the time before they wait for
    /// the lock, and need not get that in the same order.
    fn clock(&self, now: Instant) -> Duration {
        let running = self.since.map(|since| now.saturating_duration_since(since));
        let done = self.done.back().map_or(self.base, |done| done.end);
        done.max(self.clock + running.unwrap_or_default())
    }
}

/// `time * times / by`, rounded up.
fn scale(time: Duration, times: u64, by: u64) -> Duration {
    let nanos = time.as_nanos().saturating_mul(u128::from(times));
    let nanos = nanos.div_ceil(u128::from(by));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
