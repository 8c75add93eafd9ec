//! The circuit against a slow model that keeps every call and works everything
//! out anew from the list.

use std::{collections::HashMap, time::Duration};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, RngSeed},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::time::Instant;

use super::{FAILED, IGNORED, SUCCESS, THROTTLED, UNAVAILABLE};
use crate::circuit_breaker::{
    BreakerConfig, FailureRun, OpenFor, Probes, Ratio, State, Window,
    state::{Circuit, End, Room, Ticket},
};
use crate::outcome::Verdict;

/// Milliseconds since the start. Everything below is in these.
type Time = u64;

const SLICE: Time = 5_000;
const SLICES: u64 = 4;
const MIN_CALLS: usize = 4;
const INFORMED: usize = 2;
const REFUSED_CAP: Time = 1_500;
const STARVED: Time = 10_000;
const CANCEL_COUNTS: Time = 10_000;
const LEASE: Time = 7_000;
const CAP: Time = 4_000;
const HINT: Time = 6_000;

fn config(in_flight: u32) -> BreakerConfig {
    let millis = Duration::from_millis;
    let half = Ratio::new(0.5).unwrap();
    BreakerConfig::default()
        .window(Window::time(millis(SLICE * SLICES), SLICES as u32).unwrap())
        .failure_rate(half)
        .min_calls(MIN_CALLS as u32)
        .failure_run(FailureRun::new(3, millis(2_000)).sooner(INFORMED as u32))
        .starved_after(millis(STARVED))
        .cancel_counts_after(millis(CANCEL_COUNTS))
        .open_for(
            OpenFor::new(millis(1_000), millis(CAP))
                .unwrap()
                .refused_cap(millis(REFUSED_CAP))
                .jitter(None),
        )
        .probes(Probes::ratio(4, half).in_flight(in_flight))
        .probe_lease(millis(LEASE))
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    Settle(Index, End),
    Wait(Time),
    ForceOpen,
    ForceClosed,
    MetricsOnly,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    Not,
    Open,
    Closed,
    Metrics,
}

#[derive(Clone, Debug)]
struct Call {
    /// The phase it was admitted in, by number.
    phase: u64,
    started: Time,
    /// How much had been seen by then.
    seen: usize,
    probe: bool,
    over: bool,
}

#[derive(Clone, Debug)]
struct Model {
    in_flight: u32,
    now: Time,
    held: Held,
    state: State,
    /// Counts the changes of state, and what else starts everything afresh.
    phase: u64,
    open_until: Option<Time>,
    /// How the probe rounds failed since it was last closed: by a refusal?
    failed_rounds: Vec<bool>,
    calls: Vec<Call>,
    /// What this closed phase saw: when, what it meant, and how much of this the
    /// phase had seen when the call was admitted.
    seen: Vec<(Time, Mark, usize)>,
    /// When it began, and with it the first slice of its window.
    origin: Time,
    /// When calls were admitted since the last success.
    admitted: Vec<Time>,
    good: u32,
    bad: u32,
    hinted: Time,
    admits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    Good,
    Bad,
    Alive,
}

impl Model {
    fn flying(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| {
            call.probe && !call.over && call.phase == self.phase && self.now < call.started + LEASE
        })
    }

    /// How many calls may go; `u32::MAX` if all may.
    fn room(&self) -> u32 {
        match self.state {
            State::Closed => u32::MAX,
            State::Open => match self.open_until {
                Some(until) if self.now >= until => self.in_flight,
                _ => 0,
            },
            State::HalfOpen => {
                let flying = self.flying().count() as u32;
                let wanted = 4 - self.good - self.bad;
                wanted.min(self.in_flight).saturating_sub(flying)
            }
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.phase += 1;
        (self.good, self.bad, self.hinted) = (0, 0, 0);
        if state == State::Closed {
            self.seen.clear();
            self.admitted.clear();
            self.origin = self.now;
            self.failed_rounds.clear();
        }
    }

    fn open(&mut self, hint: Time) {
        let period = self.failed_rounds.iter().fold(1_000, |period, refused| {
            (2 * period).min(if *refused { REFUSED_CAP } else { CAP })
        });
        self.enter(State::Open);
        self.open_until = Some((self.now + period).max(hint));
    }

    fn starved(&self) -> bool {
        self.admitted
            .first()
            .is_some_and(|first| self.now - first >= STARVED)
    }

    fn mark(&self, end: End, call: &Call) -> Option<Mark> {
        let ran = self.now - call.started;
        match end {
            End::Panicked => Some(Mark::Bad),
            End::Cancelled => (ran >= CANCEL_COUNTS).then_some(Mark::Bad),
            SUCCESS => Some(Mark::Good),
            IGNORED => None,
            THROTTLED => Some(Mark::Alive),
            UNAVAILABLE => (call.probe || self.starved()).then_some(Mark::Bad),
            End::Outcome(..) => Some(Mark::Bad),
        }
    }

    /// (calls, failed) in the window.
    fn counts(&self) -> (usize, usize) {
        let slice = |at: Time| (at - self.origin) / SLICE;
        let recent = self
            .seen
            .iter()
            .filter(|(at, ..)| slice(self.now) - slice(*at) < SLICES);
        let marks: Vec<_> = recent.map(|(_, mark, _)| *mark).collect();
        let count = |what| marks.iter().filter(|mark| **mark == what).count();
        (count(Mark::Good) + count(Mark::Bad), count(Mark::Bad))
    }

    fn must_open(&self) -> bool {
        let (calls, failed) = self.counts();
        let good = self.seen.iter().rposition(|seen| seen.1 != Mark::Bad);
        let first = good.map_or(0, |good| good + 1);
        let run = &self.seen[first..];
        let lasted = run.last().map_or(0, |last| last.0 - run[0].0);
        let informed = run.iter().filter(|call| call.2 > first).count();
        let run_long = run.len() >= 3 && lasted >= 2_000;
        let run_sooner = informed >= INFORMED && lasted >= 250;
        (calls >= MIN_CALLS && failed * 2 >= calls) || run_long || run_sooner
    }

    /// A call to settle, mostly a late one: nearly all of them are old.
    fn pick(&self, call: Index) -> Option<usize> {
        let recent = self.calls.len().saturating_sub(8);
        let among = self.calls.len() - recent;
        (among > 0).then(|| recent + call.index(among))
    }

    fn settle(&mut self, at: usize, end: End) {
        let call = self.calls[at].clone();
        self.calls[at].over = true;
        if call.over || call.phase != self.phase {
            return;
        }
        let Some(mark) = self.mark(end, &call) else {
            return;
        };
        if mark == Mark::Good {
            self.admitted.clear();
        }
        let hint = match end {
            End::Outcome(_, Some(hint)) => self.now + hint.as_millis() as Time,
            _ => 0,
        };
        if call.probe {
            if mark == Mark::Bad {
                self.bad += 1;
                self.hinted = self.hinted.max(hint);
            } else {
                self.good += 1;
            }
            if self.good == 2 {
                self.enter(State::Closed);
            } else if self.bad == 3 {
                let refused = matches!(end, End::Outcome(Verdict::Refused(_), _));
                self.failed_rounds.push(refused);
                self.open(self.hinted);
            }
        } else if self.held != Held::Closed {
            self.seen.push((self.now, mark, call.seen));
            if self.held == Held::Not && mark != Mark::Alive && self.must_open() {
                self.open(hint);
            }
        }
    }

    fn admit(&mut self) {
        self.admits = self.room() > 0;
        if !self.admits {
            return;
        }
        if self.state == State::Open {
            self.enter(State::HalfOpen);
        }
        let probe = self.state == State::HalfOpen;
        // What outlived its lease is replaced, and will never count.
        let (now, phase) = (self.now, self.phase);
        for call in &mut self.calls {
            call.over |= call.probe && call.phase == phase && now >= call.started + LEASE;
        }
        self.admitted.push(now);
        self.calls.push(Call {
            phase,
            started: now,
            seen: self.seen.len(),
            probe,
            over: false,
        });
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (1..=3_u32)
            .prop_map(|in_flight| Self {
                in_flight,
                now: 0,
                held: Held::Not,
                state: State::Closed,
                phase: 0,
                open_until: None,
                failed_rounds: Vec::new(),
                calls: Vec::new(),
                seen: Vec::new(),
                admitted: Vec::new(),
                origin: 0,
                good: 0,
                bad: 0,
                hinted: 0,
                admits: false,
            })
            .boxed()
    }

    fn transitions(model: &Self) -> BoxedStrategy<Step> {
        let hinted = match FAILED {
            End::Outcome(verdict, _) => End::Outcome(verdict, Some(Duration::from_millis(HINT))),
            other => other,
        };
        let end = prop_oneof![
            6 => Just(SUCCESS),
            6 => Just(FAILED),
            2 => Just(hinted),
            2 => Just(UNAVAILABLE),
            1 => Just(THROTTLED),
            1 => Just(IGNORED),
            1 => Just(End::Cancelled),
            1 => Just(End::Panicked),
        ];
        let wait = prop_oneof![
            6 => prop_oneof![Just(500), Just(1_000), Just(LEASE), 1..2_000_u64],
            1 => 1..60_000_u64,
        ];
        let command = prop_oneof![
            1 => Just(Step::ForceOpen),
            1 => Just(Step::ForceClosed),
            1 => Just(Step::MetricsOnly),
            1 => Just(Step::Reset),
        ];
        // Most steps would be lost on a circuit that refuses: lead out of it.
        let (lead, weight) = match (model.held, model.open_until) {
            (Held::Open, _) => (Step::Reset, 30),
            (_, Some(until)) if model.state == State::Open && until > model.now => {
                (Step::Wait(until - model.now), 100)
            }
            (Held::Closed | Held::Metrics, _) => (Step::Reset, 2),
            _ => (Step::Admit, 10),
        };
        prop_oneof![
            50 => Just(Step::Admit),
            70 => (any::<Index>(), end).prop_map(|(call, end)| Step::Settle(call, end)),
            15 => wait.prop_map(Step::Wait),
            1 => command,
            weight => Just(lead),
        ]
        .boxed()
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        match *step {
            Step::Admit => model.admit(),
            Step::Settle(call, end) => {
                if let Some(at) = model.pick(call) {
                    model.settle(at, end);
                }
            }
            Step::Wait(time) => model.now += time,
            Step::ForceOpen => {
                if model.state != State::Open {
                    model.enter(State::Open);
                }
                model.held = Held::Open;
                model.open_until = None;
            }
            Step::MetricsOnly if model.state == State::Closed && model.held != Held::Closed => {
                model.held = Held::Metrics;
            }
            Step::ForceClosed | Step::MetricsOnly | Step::Reset => {
                model.enter(State::Closed);
                model.held = match step {
                    Step::ForceClosed => Held::Closed,
                    Step::MetricsOnly => Held::Metrics,
                    _ => Held::Not,
                };
            }
        }
        model
    }
}

struct Sut {
    circuit: Circuit,
    start: Instant,
    tickets: HashMap<usize, Ticket>,
}

struct Agrees;

impl StateMachineTest for Agrees {
    type SystemUnderTest = Sut;
    type Reference = Model;

    fn init_test(model: &Model) -> Sut {
        let start = Instant::now();
        Sut {
            circuit: Circuit::new(config(model.in_flight), 0, start),
            start,
            tickets: HashMap::new(),
        }
    }

    fn apply(mut sut: Sut, model: &Model, step: Step) -> Sut {
        let now = sut.start + Duration::from_millis(model.now);
        let (state, epoch) = (sut.circuit.state(), sut.circuit.epoch());
        let moved = match step {
            Step::Admit => {
                let admitted = sut.circuit.admit(now);
                assert_eq!(admitted.is_ok(), model.admits);
                admitted.ok().and_then(|admitted| {
                    let at = model.calls.len() - 1;
                    assert_eq!(admitted.ticket.is_probe(), model.calls[at].probe);
                    sut.tickets.insert(at, admitted.ticket);
                    admitted.transition
                })
            }
            Step::Settle(call, end) => model.pick(call).and_then(|at| {
                let ticket = sut.tickets.remove(&at)?;
                let ran = Duration::from_millis(model.now - model.calls[at].started);
                sut.circuit.settle(ticket, end, ran, now)
            }),
            Step::Wait(_) => None,
            Step::ForceOpen => sut.circuit.force_open(now),
            Step::ForceClosed => sut.circuit.force_closed(now),
            Step::MetricsOnly => sut.circuit.metrics_only(now),
            Step::Reset => sut.circuit.reset(now),
        };
        assert_eq!(moved.is_some(), state != sut.circuit.state());
        if let Some(moved) = moved {
            assert_eq!((moved.from, moved.to), (state, model.state));
            assert!(sut.circuit.epoch() > epoch);
        }
        sut
    }

    fn check_invariants(sut: &Sut, model: &Model) {
        let now = sut.start + Duration::from_millis(model.now);
        assert_eq!(sut.circuit.state(), model.state);
        match sut.circuit.peek(now) {
            Room::All => assert_eq!(model.room(), u32::MAX),
            Room::Probes(probes) => assert_eq!(probes, model.room()),
            Room::Full(wait) => {
                assert_eq!(model.room(), 0);
                // Whatever happened, some moment lets a call through.
                let until = match (model.held, model.state) {
                    (Held::Open, _) => None,
                    (_, State::Open) => model.open_until,
                    _ => model.flying().map(|call| call.started + LEASE).min(),
                };
                assert_eq!(until.is_none(), model.held == Held::Open);
                let until = until.map(|at| sut.start + Duration::from_millis(at));
                assert_eq!(wait.until, until);
            }
        }
        if model.state == State::Closed {
            let counts = sut.circuit.snapshot(now).counts;
            let counts = (counts.calls as usize, counts.failed as usize);
            assert_eq!(counts, model.counts());
        }
    }
}

prop_state_machine! {
    #![proptest_config(Config {
        cases: 1_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5),
        ..Config::default()
    })]

    #[test]
    fn the_circuit_agrees_with_the_model(sequential 50..250 => Agrees);
}
