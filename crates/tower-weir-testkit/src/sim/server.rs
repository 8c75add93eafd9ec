use std::{collections::VecDeque, time::Duration};

use rand::{RngExt, rngs::Xoshiro256PlusPlus};
use rand_distr::{Distribution, LogNormal};
use tower_weir::outcome::{Refusal, Verdict};

use super::Answer;

/// What a simulated server does with the calls it gets.
#[derive(Clone, Debug)]
pub struct ServerModel {
    /// How many calls it works on at once, from each moment on.
    pub capacity: Vec<(Duration, usize)>,
    /// The mean time that it works on one.
    pub service: Duration,
    /// The coefficient of variation of that time, which is log-normal. 0 for
    /// none.
    pub variation: f64,
    /// What it does with calls above its capacity.
    pub overload: Overload,
    /// How many calls it lets wait before it treats one as above its capacity.
    pub queue: usize,
    /// The time a refusal takes it.
    pub refusal: Duration,
    /// What it says of coming back, with each refusal.
    pub hint: Option<Duration>,
    /// When it answers every new call with a quick 503.
    pub outage: Option<(Duration, Duration)>,
    /// The share of calls that it refuses for no reason.
    pub whims: f64,
    /// How many calls it takes in a time, whatever its capacity.
    pub quota: Option<Quota>,
}

/// What becomes of a call that finds a full server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// 429.
    Throttle,
    /// It is never answered.
    Hang,
}

/// A limit on calls in a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quota {
    /// So many calls in each stretch of time of this length, counted anew at
    /// its end.
    Window(u32, Duration),
    /// A bucket that fills at this rate a second and holds so many.
    Bucket(f64, f64),
}

impl Quota {
    /// Calls a second that it allows in the long run.
    pub fn rate(&self) -> f64 {
        match *self {
            Self::Window(calls, period) => f64::from(calls) / period.as_secs_f64(),
            Self::Bucket(rate, _) => rate,
        }
    }
}

impl Default for ServerModel {
    /// 32 slots, 100 ms of work with a variation of 0.3, refusals within 2 ms.
    fn default() -> Self {
        Self {
            capacity: vec![(Duration::ZERO, 32)],
            service: Duration::from_millis(100),
            variation: 0.3,
            overload: Overload::Throttle,
            queue: 0,
            refusal: Duration::from_millis(2),
            hint: None,
            outage: None,
            whims: 0.0,
            quota: None,
        }
    }
}

impl ServerModel {
    /// The default server with so many slots.
    pub fn with_capacity(slots: usize) -> Self {
        Self {
            capacity: vec![(Duration::ZERO, slots)],
            ..Self::default()
        }
    }

    /// The capacity at a moment.
    pub fn capacity_at(&self, now: Duration) -> usize {
        let past = self.capacity.iter().take_while(|(from, _)| *from <= now);
        past.last().map_or(0, |(_, capacity)| *capacity)
    }

    pub(super) fn is_out(&self, now: Duration) -> bool {
        self.outage
            .is_some_and(|(from, to)| (from..to).contains(&now))
    }
}

/// What a server decides when a call arrives.
pub(super) enum Arrival {
    /// It works on it for so long.
    Work(Duration),
    /// It has the call wait for its turn.
    Queued,
    /// It answers after so long without working on it.
    Refuse(Duration, Answer),
    /// Nothing ever comes back.
    Hang,
}

pub(super) struct Server {
    model: ServerModel,
    random: Xoshiro256PlusPlus,
    work: Option<LogNormal<f64>>,
    busy: usize,
    queue: VecDeque<u64>,
    /// Calls left in the quota's present window, or its bucket; since when.
    tokens: f64,
    tokens_at: Duration,
}

impl Server {
    pub(super) fn new(model: ServerModel, random: Xoshiro256PlusPlus) -> Self {
        let work = LogNormal::from_mean_cv(model.service.as_secs_f64(), model.variation).ok();
        let tokens = match model.quota {
            Some(Quota::Window(calls, _)) => calls.into(),
            Some(Quota::Bucket(_, size)) => size,
            None => 0.0,
        };
        Self {
            model,
            random,
            work,
            busy: 0,
            queue: VecDeque::new(),
            tokens,
            tokens_at: Duration::ZERO,
        }
    }

    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    pub(super) fn arrive(&mut self, call: u64, now: Duration) -> Arrival {
        if self.model.is_out(now) || self.random.random_bool(self.model.whims) {
            return self.refuse(Refusal::Unavailable);
        }
        if !self.take_token(now) {
            return self.refuse(Refusal::Throttled);
        }
        if self.busy < self.model.capacity_at(now) {
            return Arrival::Work(self.begin());
        }
        if self.queue.len() < self.model.queue {
            self.queue.push_back(call);
            return Arrival::Queued;
        }
        match self.model.overload {
            Overload::Throttle => self.refuse(Refusal::Throttled),
            Overload::Hang => Arrival::Hang,
        }
    }

    /// A call's work is done.
    pub(super) fn finish(&mut self) {
        self.busy -= 1;
    }

    /// The next call of the queue that there is room for, and how long it takes.
    pub(super) fn take_up(&mut self, now: Duration) -> Option<(u64, Duration)> {
        if self.busy >= self.model.capacity_at(now) {
            return None;
        }
        let call = self.queue.pop_front()?;
        Some((call, self.begin()))
    }

    fn begin(&mut self) -> Duration {
        self.busy += 1;
        match self.work {
            Some(work) if self.model.variation > 0.0 => {
                Duration::from_secs_f64(work.sample(&mut self.random))
            }
            _ => self.model.service,
        }
    }

    fn refuse(&self, refusal: Refusal) -> Arrival {
        let answer = Answer {
            verdict: Verdict::Refused(refusal),
            hint: self.model.hint,
        };
        Arrival::Refuse(self.model.refusal, answer)
    }

    fn take_token(&mut self, now: Duration) -> bool {
        match self.model.quota {
            None => return true,
            Some(Quota::Window(calls, period)) => {
                if now - self.tokens_at >= period {
                    let windows = now.as_nanos() / period.as_nanos();
                    self.tokens_at = period.mul_f64(windows as f64);
                    self.tokens = calls.into();
                }
            }
            Some(Quota::Bucket(rate, size)) => {
                let filled = rate * (now - self.tokens_at).as_secs_f64();
                self.tokens = (self.tokens + filled).min(size);
                self.tokens_at = now;
            }
        }
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}
