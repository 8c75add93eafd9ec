use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use tower_weir::{
    aimd::law::{LimitLaw, Sample},
    outcome::Verdict,
};

/// The limiter of one simulated client. Times are counted from the start of the
/// run. A call is known by its number.
pub trait Limiter {
    /// A call wants to be sent.
    fn ask(&mut self, call: u64, now: Duration);

    /// The next call that may be sent now; to be asked until there is none.
    fn grant(&mut self, now: Duration) -> Option<u64>;

    /// A call that was granted has ended.
    fn settle(&mut self, call: u64, now: Duration, answer: &Answer);

    /// When `grant` may have another call although nothing was settled before.
    fn next_grant(&self, now: Duration) -> Option<Duration>;

    /// The present limit.
    fn limit(&self) -> usize;
}

/// How a simulated call ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// What it says about the server.
    pub verdict: Verdict,
    /// How long the server asked to be left alone.
    pub hint: Option<Duration>,
}

impl Answer {
    /// An answer without a hint.
    pub const fn of(verdict: Verdict) -> Self {
        Self {
            verdict,
            hint: None,
        }
    }
}

/// Slots and a queue around a law, as plain as can be.
#[derive(Debug)]
pub struct SlotModel {
    law: Box<dyn LimitLaw>,
    start: Instant,
    waiting: VecDeque<(u64, Duration)>,
    granted: HashMap<u64, Granted>,
    cooling: BinaryHeap<Reverse<Duration>>,
    paused_until: Duration,
    last_start: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    at: Duration,
    in_flight: usize,
    binding: bool,
}

impl SlotModel {
    /// A limiter with all its slots free. `start` is what the law takes for the
    /// start of the run.
    pub fn new(law: Box<dyn LimitLaw>, start: Instant) -> Self {
        Self {
            law,
            start,
            waiting: VecDeque::new(),
            granted: HashMap::new(),
            cooling: BinaryHeap::new(),
            paused_until: Duration::ZERO,
            last_start: None,
        }
    }

    fn warm_up(&mut self, now: Duration) {
        while self.cooling.peek().is_some_and(|Reverse(end)| *end <= now) {
            self.cooling.pop();
        }
    }

    fn in_use(&self) -> usize {
        self.granted.len() + self.cooling.len()
    }

    /// The earliest start that a pause and the law's spacing leave.
    fn earliest(&self) -> Duration {
        let spaced = self.last_start.map(|last| last + self.law.spacing());
        spaced.unwrap_or_default().max(self.paused_until)
    }
}

impl Limiter for SlotModel {
    fn ask(&mut self, call: u64, now: Duration) {
        self.waiting.push_back((call, now));
    }

    fn grant(&mut self, now: Duration) -> Option<u64> {
        self.warm_up(now);
        if self.in_use() >= self.law.limit() || now < self.earliest() {
            return None;
        }
        let (call, asked) = self.waiting.pop_front()?;
        let binding =
            asked < now || !self.waiting.is_empty() || self.in_use() + 1 == self.law.limit();
        let granted = Granted {
            at: now,
            in_flight: self.granted.len() + 1,
            binding,
        };
        self.granted.insert(call, granted);
        self.last_start = Some(now);
        Some(call)
    }

    fn settle(&mut self, call: u64, now: Duration, answer: &Answer) {
        let Some(granted) = self.granted.get(&call).copied() else {
            return;
        };
        let decision = self.law.settle(&Sample {
            started: self.start + granted.at,
            now: self.start + now,
            rtt: now - granted.at,
            in_flight_at_start: granted.in_flight,
            in_flight: self.granted.len(),
            binding: granted.binding,
            verdict: answer.verdict,
            hint: answer.hint,
        });
        self.granted.remove(&call);
        if !decision.cool.is_zero() {
            self.cooling.push(Reverse(now + decision.cool));
        }
        if let Some(pause) = decision.pause {
            self.paused_until = self.paused_until.max(now + pause);
        }
    }

    fn next_grant(&self, now: Duration) -> Option<Duration> {
        if self.waiting.is_empty() {
            return None;
        }
        let earliest = self.earliest();
        if self.in_use() < self.law.limit() {
            return (earliest > now).then_some(earliest);
        }
        self.cooling.peek().map(|Reverse(end)| (*end).max(earliest))
    }

    fn limit(&self) -> usize {
        self.law.limit()
    }
}
