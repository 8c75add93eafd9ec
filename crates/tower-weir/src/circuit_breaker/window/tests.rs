//! The ring against a list of timed calls that is counted anew each time.

use std::time::Duration;

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::time::Instant;

use super::{Counts, Kind, Ring, Window};

/// Nanoseconds since the ring was made.
type Time = u64;

#[derive(Clone, Debug)]
struct List {
    window: Window,
    calls: Vec<(Time, bool, bool)>,
    now: Time,
    /// Where the first slice begins, and the latest time told since.
    origin: Time,
    latest: Time,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Record {
        failed: bool,
        slow: bool,
    },
    Wait(Time),
    /// To a slice's boundary so many slices on, or a nanosecond beside it.
    Edge {
        slices: u64,
        beside: i64,
    },
    Back(Time),
    Clear,
}

impl List {
    fn width(&self) -> Time {
        match self.window.0 {
            Kind::Time { width, .. } => width.as_nanos() as Time,
            Kind::Calls(_) => 1_000,
        }
    }

    fn slice(&self, time: Time) -> u64 {
        (time - self.origin) / self.width()
    }

    fn boundary(&self, time: Time) -> Time {
        self.origin + self.slice(time) * self.width()
    }

    fn counts(&self) -> Counts {
        let now = self.latest.max(self.now);
        let held = self
            .calls
            .iter()
            .rev()
            .enumerate()
            .filter(|(age, call)| match self.window.0 {
                Kind::Time { slices, .. } => {
                    let held = self.slice(now) - self.slice(call.0) < u64::from(slices);
                    let (span, age) = (u64::from(slices) * self.width(), now - call.0);
                    assert!(held || age > span - self.width(), "forgot too soon");
                    assert!(!held || age < span, "remembered too long");
                    held
                }
                Kind::Calls(last) => *age < last as usize,
            });
        let mut counts = Counts::default();
        for (_, (_, failed, slow)) in held {
            counts.calls += 1;
            counts.failed += u64::from(*failed);
            counts.slow += u64::from(*slow);
        }
        counts
    }
}

fn windows() -> impl Strategy<Value = Window> {
    prop_oneof![
        3 => (1..=8_u32, 1_000_000..=20_000_000_u64).prop_map(|(slices, width)| {
            Window::time(Duration::from_nanos(width) * slices, slices).unwrap()
        }),
        1 => Just(Window::default()),
        2 => (1..=12_u32).prop_map(|calls| Window::calls(calls).unwrap()),
    ]
}

impl ReferenceStateMachine for List {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        windows()
            .prop_map(|window| Self {
                window,
                calls: Vec::new(),
                now: 0,
                origin: 0,
                latest: 0,
            })
            .boxed()
    }

    fn transitions(list: &Self) -> BoxedStrategy<Step> {
        let width = list.width();
        prop_oneof![
            12 => any::<(bool, bool)>().prop_map(|(failed, slow)| Step::Record { failed, slow }),
            4 => (0..width).prop_map(Step::Wait),
            2 => (0..width * 10).prop_map(Step::Wait),
            1 => (0..width * 1_000_000).prop_map(Step::Wait),
            4 => (0..40_u64, -1..=1_i64).prop_map(|(slices, beside)| Step::Edge { slices, beside }),
            2 => (0..width * 3).prop_map(Step::Back),
            1 => Just(Step::Clear),
        ]
        .boxed()
    }

    fn apply(mut list: Self, step: &Step) -> Self {
        match *step {
            Step::Record { failed, slow } => {
                list.latest = list.latest.max(list.now);
                list.calls.push((list.latest, failed, slow));
            }
            Step::Wait(time) => list.now += time,
            Step::Edge { slices, beside } => {
                let from = list.boundary(list.latest.max(list.now));
                list.now = (from + slices * list.width()).saturating_add_signed(beside);
            }
            Step::Back(time) => list.now = list.now.saturating_sub(time),
            Step::Clear => {
                list.calls.clear();
                list.origin = list.boundary(list.latest).max(list.now);
                list.latest = list.origin;
            }
        }
        list
    }
}

struct Agrees;

struct Sut {
    ring: Ring,
    start: Instant,
}

impl Sut {
    fn at(&self, time: Time) -> Instant {
        self.start + Duration::from_nanos(time)
    }
}

impl StateMachineTest for Agrees {
    type SystemUnderTest = Sut;
    type Reference = List;

    fn init_test(list: &List) -> Sut {
        let start = Instant::now();
        let ring = Ring::new(list.window, start);
        Sut { ring, start }
    }

    fn apply(mut sut: Sut, list: &List, step: Step) -> Sut {
        let now = sut.at(list.now);
        match step {
            Step::Record { failed, slow } => {
                assert_eq!(sut.ring.record(failed, slow, now), list.counts());
            }
            Step::Clear => sut.ring.clear(now),
            Step::Wait(_) | Step::Edge { .. } | Step::Back(_) => {}
        }
        sut
    }

    fn check_invariants(sut: &Sut, list: &List) {
        assert_eq!(sut.ring.counts(sut.at(list.now)), list.counts());
    }
}

prop_state_machine! {
    #![proptest_config(Config {
        cases: 10_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5),
        ..Config::default()
    })]

    #[test]
    fn the_ring_agrees_with_a_list_of_calls(sequential 1..60 => Agrees);
}

#[test]
fn a_gap_of_centuries_empties_the_window() {
    let start = Instant::now();
    let year = Duration::from_secs(365 * 86_400);
    let mut ring = Ring::new(Window::time(Duration::from_millis(1), 1).unwrap(), start);
    ring.record(true, false, start);
    assert_eq!(ring.counts(start).failed, 1);
    let later = start + 1_000 * year;
    assert_eq!(ring.counts(later), Counts::default());
    assert_eq!(ring.record(false, true, later), Counts::one(false, true));
    assert_eq!(ring.record(false, true, later).calls, 2);
}
