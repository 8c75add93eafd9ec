//! The circuit, step by step.

mod at_once;
mod contract;
mod half_open;
mod manual;
mod model;
mod open;
mod opening;
mod refusals;

use std::time::Duration;

use tokio::time::Instant;

use super::{
    BreakerConfig, State, Transition,
    state::{Circuit, End, Room, Ticket, Wait},
};
use crate::outcome::{Failure, Refusal, Verdict};

const SUCCESS: End = End::Outcome(Verdict::Success, None);
const FAILED: End = End::Outcome(Verdict::Failed(Failure::Error), None);
const IGNORED: End = End::Outcome(Verdict::Ignored, None);
const THROTTLED: End = End::Outcome(Verdict::Refused(Refusal::Throttled), None);
const REQUEST_TIMEOUT: End = End::Outcome(Verdict::Refused(Refusal::RequestTimeout), None);
const UNAVAILABLE: End = End::Outcome(Verdict::Refused(Refusal::Unavailable), None);

const SECOND: Duration = Duration::from_secs(1);

/// A circuit and the time it is told.
struct Rig {
    circuit: Circuit,
    start: Instant,
    now: Instant,
}

impl Rig {
    fn new(config: BreakerConfig) -> Self {
        Self::seeded(config, 0)
    }

    fn seeded(config: BreakerConfig, seed: u64) -> Self {
        let start = Instant::now();
        Self {
            circuit: Circuit::new(config, seed, start),
            start,
            now: start,
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn state(&self) -> State {
        self.circuit.state()
    }

    fn room(&self) -> Room {
        self.circuit.peek(self.now)
    }

    /// In what time the circuit says that it may admit.
    fn refused(&mut self) -> Option<Duration> {
        let Wait { until } = self.circuit.admit(self.now).expect_err("admitted");
        until.map(|until| until.duration_since(self.now))
    }

    fn admit(&mut self) -> Ticket {
        self.circuit.admit(self.now).expect("refused").ticket
    }

    fn probe(&mut self) -> Ticket {
        let ticket = self.admit();
        assert!(ticket.is_probe());
        assert_eq!(self.state(), State::HalfOpen);
        ticket
    }

    fn settle(&mut self, ticket: Ticket, end: End) -> Option<Transition> {
        self.circuit.settle(ticket, end, Duration::ZERO, self.now)
    }

    fn cancel(&mut self, ticket: Ticket, after: Duration) -> Option<Transition> {
        self.circuit.settle(ticket, End::Cancelled, after, self.now)
    }

    fn call(&mut self, end: End) -> Option<Transition> {
        let ticket = self.admit();
        self.settle(ticket, end)
    }

    /// Fails calls, all at this instant, until the rate opens the circuit.
    fn trip(&mut self) -> Transition {
        (0..100)
            .find_map(|_| self.call(FAILED))
            .expect("100 failures open it")
    }

    /// Waits for the open period to end.
    fn elapse(&mut self) {
        let left = self.refused().expect("open for a time");
        self.wait(left);
    }
}
