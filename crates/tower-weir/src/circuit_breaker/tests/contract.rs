//! The tables that every implementation of this breaker is held to.

use std::{collections::HashMap, time::Duration};

use super::{FAILED, Rig, SUCCESS};
use crate::circuit_breaker::{
    BreakerConfig, Counts, OpenFor, Probes, Ratio, State, Transition, Window,
    state::{Room, Ticket},
};

/// The rows of a table, each by column name.
pub(super) fn rows(table: &'static str) -> Vec<HashMap<&'static str, &'static str>> {
    let mut lines = table.lines().filter(|line| !line.starts_with('#'));
    let columns: Vec<_> = lines.next().expect("a header").split('\t').collect();
    lines
        .map(|line| columns.iter().copied().zip(line.split('\t')).collect())
        .collect()
}

fn ratio(text: &str) -> Ratio {
    Ratio::new(text.parse().expect("a number")).expect("a ratio")
}

/// The rate table over one kind of window.
fn rates(window: Window) {
    let mut rig = Rig::new(BreakerConfig::default());
    let mut tried = 0;
    for row in rows(include_str!("../../../tests/contract/breaker_rate.tsv")) {
        if row["step"] == "1" {
            let config = BreakerConfig::default()
                .window(window)
                .min_calls(row["min_throughput"].parse().expect("a number"))
                .failure_rate(ratio(row["ratio"]));
            rig = Rig::new(config);
        }
        let (times, end) = row["events"].split_once(" x ").expect("n x end");
        let end = match end {
            "ok" => SUCCESS,
            "fail" => FAILED,
            other => panic!("unknown event {other}"),
        };
        let mut last = None;
        for _ in 0..times.parse().expect("a number") {
            assert_eq!(rig.state(), State::Closed, "before the last of {row:?}");
            last = rig.call(end);
        }
        let counts = last.map_or(
            rig.circuit.snapshot(rig.now).counts,
            |opened: Transition| opened.counts,
        );
        assert_eq!(counts.calls.to_string(), row["total"], "{row:?}");
        assert_eq!(counts.failed.to_string(), row["failed"], "{row:?}");
        let rate: f64 = row["rate"].parse().expect("a number");
        assert_eq!(counts.failure_rate(), rate, "{row:?}");
        assert_eq!(rig.state().as_str(), row["state"], "{row:?}");
        tried += 1;
    }
    assert_eq!(tried, 9);
}

#[test]
fn rates_over_time() {
    rates(Window::time(Duration::from_secs(300), 30).unwrap());
}

#[test]
fn rates_over_calls() {
    rates(Window::calls(1_000).unwrap());
}

/// One case of the epoch table on its way.
struct Case {
    rig: Rig,
    calls: HashMap<&'static str, Ticket>,
    last: Option<Transition>,
    before: Counts,
}

impl Case {
    fn new() -> Self {
        let second = Duration::from_secs(1);
        let open_for = OpenFor::new(second, 15 * second).unwrap().jitter(None);
        let config = BreakerConfig::default()
            .probes(Probes::all(1))
            .open_for(open_for);
        Self {
            rig: Rig::new(config),
            calls: HashMap::new(),
            last: None,
            before: Counts::default(),
        }
    }

    fn admit(&mut self, name: &'static str) {
        let ticket = self.rig.admit();
        self.calls.insert(name, ticket);
    }

    fn drop_after(&mut self, seconds: u64) {
        let ticket = self.rig.admit();
        let ran = Duration::from_secs(seconds);
        self.rig.wait(ran);
        self.last = self.rig.cancel(ticket, ran);
    }

    fn run(&mut self, event: &str) {
        self.before = self.rig.circuit.snapshot(self.rig.now).counts;
        match event {
            "A starts" => self.admit("A"),
            "trip" => self.last = Some(self.rig.trip()),
            "trip; open elapses" => {
                self.rig.trip();
                self.rig.elapse();
            }
            "open elapses; probe P admitted" => {
                self.rig.elapse();
                self.admit("P");
            }
            "A (epoch 0) succeeds" => self.last = self.rig.settle(self.calls["A"], SUCCESS),
            "P fails" => self.last = self.rig.settle(self.calls["P"], FAILED),
            "P1 admitted" => self.admit("P1"),
            "P1 future dropped" => {
                self.last = self.rig.cancel(self.calls["P1"], Duration::ZERO);
            }
            "P2 admitted" => self.admit("P2"),
            "P2 succeeds" => {
                self.last = self.rig.settle(self.calls["P2"], SUCCESS);
                // P1, which was dropped, is not among what closed the circuit.
                let counts = self.last.expect("closed").counts;
                assert_eq!(counts, Counts::one(false, false));
            }
            "open elapses; clone A poll_ready" => {
                self.rig.trip();
                self.rig.elapse();
                assert_eq!(self.rig.room(), Room::Probes(1));
            }
            "A dropped without call" => {}
            "clone B poll_ready + call" => self.admit("B"),
            "cancel_counts_after=10 s: call dropped at 3 s" => self.drop_after(3),
            "call dropped at 10 s" => self.drop_after(10),
            other => panic!("unknown event {other}"),
        }
    }

    fn expect(&self, state: &str, detail: &str) {
        match state {
            "-" => {}
            "ready" => assert_eq!(self.rig.room(), Room::Probes(1)),
            // The change is made by the call that comes first, as its probe.
            "half_open" if self.rig.state() == State::Open => {
                assert_eq!(self.rig.room(), Room::Probes(1));
            }
            state => assert_eq!(self.rig.state().as_str(), state),
        }
        let counts = self.rig.circuit.snapshot(self.rig.now).counts;
        for detail in detail.split([';', ',']).map(str::trim) {
            match detail {
                "" => {}
                "ignored" => assert_eq!(self.last, None),
                "backoff step 2" => {
                    let open_for = self.last.expect("opened").open_for;
                    assert_eq!(open_for, Some(Duration::from_secs(2)));
                }
                "slots 0" => assert!(matches!(self.rig.room(), Room::Full(_))),
                "slots 1" => assert_eq!(self.rig.room(), Room::Probes(1)),
                "no slot taken" => assert_eq!(self.rig.state(), State::Open),
                "nothing recorded" | "neutral" => {
                    assert_eq!(self.last, None);
                    assert_eq!(counts, self.before);
                }
                "B is the probe" => assert!(self.calls["B"].is_probe()),
                "recorded as failure" => {
                    assert_eq!(counts.calls, self.before.calls + 1);
                    assert_eq!(counts.failed, self.before.failed + 1);
                }
                other => {
                    let epoch = other.strip_prefix("epoch ").expect(other);
                    assert_eq!(self.rig.circuit.epoch().to_string(), epoch);
                }
            }
        }
    }
}

#[test]
fn epochs() {
    let mut case = Case::new();
    let mut tried = 0;
    for row in rows(include_str!("../../../tests/contract/breaker_epoch.tsv")) {
        if row["step"] == "1" {
            case = Case::new();
        }
        case.run(row["event"]);
        case.expect(row["expect_state"], row["detail"]);
        tried += 1;
    }
    assert_eq!(tried, 15);
}
