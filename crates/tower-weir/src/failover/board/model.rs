//! Any order of events, beside a model that keeps the whole history and judges
//! from it anew each time.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const REGIONS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Op {
    Pass(u64),
    Plan {
        safe: bool,
        ready: Option<usize>,
    },
    Next {
        safe: bool,
        tried: u64,
    },
    /// Ends one of the tries that are under way.
    Settle(usize, Report),
    Shut(usize),
    Prefer(usize),
    Pin(usize),
    Release,
}

fn report() -> impl Strategy<Value = Report> {
    prop_oneof![
        4 => Just(Report::Good),
        4 => Just(Report::Failed),
        3 => Just(Report::Refused),
        1 => Just(Report::Nothing),
        1 => (0..4000_u64).prop_map(|wait| {
            Report::Shut(DownCause::CircuitOpen, Some(Duration::from_millis(wait)))
        }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..1500_u64).prop_map(Op::Pass),
        8 => (any::<bool>(), prop::option::weighted(0.2, 0..REGIONS))
            .prop_map(|(safe, ready)| Op::Plan { safe, ready }),
        2 => (any::<bool>(), 1..8_u64).prop_map(|(safe, tried)| Op::Next { safe, tried }),
        10 => (any::<usize>(), report()).prop_map(|(index, report)| Op::Settle(index, report)),
        1 => (0..REGIONS).prop_map(Op::Shut),
        1 => (0..REGIONS).prop_map(Op::Prefer),
        1 => (0..REGIONS).prop_map(Op::Pin),
        1 => Just(Op::Release),
    ]
}

/// What happened to one region since its last change.
#[derive(Clone, Debug, Default)]
struct History {
    /// Its changes: when, and whether it went up.
    changes: Vec<(Instant, bool)>,
    /// Results of tries that began after the last change.
    results: Vec<(Instant, Report)>,
    /// Probes since the last change: when they began and ended.
    probes: Vec<(u64, Instant, Option<Instant>)>,
}

struct Model {
    rules: Rules,
    regions: Vec<History>,
    start: Instant,
}

impl Model {
    fn is_up(&self, region: usize) -> bool {
        self.regions[region]
            .changes
            .last()
            .is_none_or(|(_, up)| *up)
    }

    fn any_up(&self) -> bool {
        (0..REGIONS).any(|region| self.is_up(region))
    }

    fn changed(&mut self, region: usize, up: bool, now: Instant) {
        let history = &mut self.regions[region];
        history.changes.push((now, up));
        history.results.clear();
        history.probes.clear();
    }

    fn since(&self, region: usize) -> Instant {
        let last = self.regions[region].changes.last();
        last.map_or(self.start, |(at, _)| *at)
    }

    /// How long it must stay down: doubled for each fall within a minute of the
    /// return before it, counted back from the last one.
    fn stay(&self, region: usize) -> Duration {
        let changes = &self.regions[region].changes;
        let mut doubled = 0;
        for pair in changes.windows(2).rev() {
            let ((back, up), (fell, _)) = (pair[0], pair[1]);
            if up && fell - back >= Duration::from_secs(60) {
                break;
            }
            doubled += u32::from(up);
        }
        self.rules.min_down * 2_u32.pow(doubled.min(6))
    }

    /// The bad results of a kind since the last good one.
    fn run(&self, region: usize, run: super::super::Run, bad: Report) -> bool {
        let results = &self.regions[region].results;
        let since = results.iter().rposition(|(_, said)| *said == Report::Good);
        let row = &results[since.map_or(0, |at| at + 1)..];
        let mut row = row.iter().filter(|(_, said)| *said == bad);
        let (first, count) = (row.clone().next(), row.clone().count());
        let last = row.next_back();
        count >= run.count as usize
            && matches!((first, last), (Some(a), Some(b)) if b.0 - a.0 >= run.over)
    }

    /// Whether a result changes its region, and to what.
    fn settle(&mut self, region: usize, said: Report, now: Instant) -> Option<bool> {
        let any_up = self.any_up();
        let up = self.is_up(region);
        self.regions[region].results.push((now, said));
        let change = if up {
            let down = match said {
                Report::Shut(..) => true,
                Report::Failed => self.run(region, self.rules.failures, said),
                Report::Refused => self.run(region, self.rules.refusals, said),
                Report::Good | Report::Nothing => false,
            };
            down.then_some(false)
        } else {
            let row = self.regions[region].results.iter().rev();
            let row = row.filter(|(_, said)| *said != Report::Nothing);
            let good = row.take_while(|(_, said)| *said == Report::Good).count();
            let stayed = now - self.since(region) >= self.stay(region);
            let back = said == Report::Good
                && good >= self.rules.successes as usize
                && (stayed || !any_up);
            back.then_some(true)
        };
        if let Some(up) = change {
            self.changed(region, up, now);
        }
        change
    }

    /// A region that is down gets a try only if none other is up, or as a probe
    /// that keeps its distance from the one before.
    fn check_probe(&self, region: usize, now: Instant) {
        if !self.any_up() {
            return;
        }
        let last = self.regions[region].probes.last();
        let begun = last.map_or(self.since(region), |(_, begun, _)| *begun);
        assert!(now - begun >= self.rules.probe_every, "too soon");
        if let Some((_, begun, None)) = last {
            assert!(
                now - *begun >= self.rules.probe_every * super::health::LEASE,
                "two at once"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_board_does_what_its_history_says(ops in prop::collection::vec(op(), 1..400)) {
        let rules = Rules {
            failures: super::super::Run::new(3, Duration::from_millis(700)),
            refusals: super::super::Run::new(4, Duration::from_millis(1200)),
            successes: 2,
            min_down: Duration::from_secs(3),
            ..Rules::default()
        };
        let start = Instant::now();
        let mut now = start;
        let mut board = Board::new(rules, REGIONS, now);
        let mut model = Model { rules, regions: vec![History::default(); REGIONS], start };
        // Tries under way, with the number of changes when they began.
        let mut tries: Vec<(Ticket, usize)> = Vec::new();
        let (mut first, mut pinned) = (0, None);
        let mut sent = 0;
        for op in ops {
            let mut begun = None;
            match op {
                Op::Pass(millis) => now += Duration::from_millis(millis),
                Op::Plan { safe, ready } => {
                    let ticket = board.plan(now, safe, ready);
                    if let Some(pinned) = pinned {
                        prop_assert_eq!(ticket.region, pinned);
                    } else if model.any_up() && !ticket.probe && ready.is_none() {
                        let order = std::iter::once(first).chain(0..REGIONS);
                        let best = order.clone().find(|region| model.is_up(*region));
                        prop_assert_eq!(Some(ticket.region), best);
                    }
                    begun = Some(ticket);
                }
                Op::Next { safe, tried } => {
                    let next = board.next(now, safe, Tried(tried));
                    if let Some(ticket) = next {
                        prop_assert!(tried & (1 << ticket.region) == 0, "tried before");
                        begun = Some(ticket);
                    } else if pinned.is_none() {
                        // Then nothing that is up is left, and if all is down,
                        // nothing at all.
                        let left = (0..REGIONS).filter(|region| tried & (1 << region) == 0);
                        let mut left = left.filter(|region| model.is_up(*region) || !model.any_up());
                        prop_assert_eq!(left.next(), None);
                    }
                }
                Op::Settle(index, said) if !tries.is_empty() => {
                    let (ticket, changes) = tries.swap_remove(index % tries.len());
                    let region = ticket.region;
                    board.settle(ticket, said, now);
                    let mut expected = None;
                    if model.regions[region].changes.len() == changes {
                        for probe in &mut model.regions[region].probes {
                            if probe.0 == ticket.number {
                                probe.2 = Some(now);
                            }
                        }
                        expected = model.settle(region, said, now);
                    }
                    let change = board.take_changes();
                    let told = change.first().map(|change| change.down.is_none());
                    prop_assert_eq!(told, expected);
                    prop_assert!(change.len() <= 1);
                }
                Op::Settle(..) => {}
                Op::Shut(region) => {
                    board.shut(region, DownCause::CircuitOpen, now);
                    let changed = !board.take_changes().is_empty();
                    prop_assert_eq!(changed, model.is_up(region));
                    if changed {
                        model.changed(region, false, now);
                    }
                }
                Op::Prefer(region) => {
                    board.prefer(region);
                    (first, pinned) = (region, None);
                }
                Op::Pin(region) => {
                    board.pin(region);
                    pinned = Some(region);
                }
                Op::Release => {
                    board.release();
                    (first, pinned) = (0, None);
                }
            }
            if let Some(ticket) = begun {
                let region = ticket.region;
                sent += 1;
                prop_assert_eq!(ticket.probe, !model.is_up(region));
                if ticket.probe {
                    if pinned.is_none() {
                        model.check_probe(region, now);
                    }
                    model.regions[region].probes.push((ticket.number, now, None));
                }
                tries.push((ticket, model.regions[region].changes.len()));
            }
            for region in 0..REGIONS {
                prop_assert_eq!(board.condition(region).0.is_none(), model.is_up(region));
                prop_assert_eq!(board.condition(region).1, model.since(region));
            }
            let counts = (0..REGIONS).map(|region| board.counts(region).sent);
            prop_assert_eq!(counts.sum::<u64>(), sent);
        }
    }
}
