//! The rules, told step by step.

use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

struct Told {
    board: Board,
    now: Instant,
    tick: Duration,
}

impl Told {
    fn with(regions: usize, change: impl FnOnce(&mut Rules)) -> Self {
        let mut rules = Rules::default();
        change(&mut rules);
        let now = Instant::now();
        Self {
            board: Board::new(rules, regions, now),
            now,
            tick: Duration::from_millis(100),
        }
    }

    fn new(regions: usize) -> Self {
        Self::with(regions, |_| {})
    }

    fn later(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn plan(&mut self) -> Ticket {
        self.board.plan(self.now, true, None)
    }

    fn settle(&mut self, ticket: Ticket, report: Report) -> Vec<Change> {
        self.board.settle(ticket, report, self.now);
        self.board.take_changes()
    }

    /// One request, which must go to `region`.
    fn one(&mut self, region: usize, report: Report) -> Vec<Change> {
        let ticket = self.plan();
        assert_eq!(ticket.region, region);
        self.settle(ticket, report)
    }

    /// Requests at `region`, one a tick, until something changes: how many.
    fn until_change(&mut self, region: usize, report: Report) -> (usize, Vec<Change>) {
        for count in 1..1000 {
            let changes = self.one(region, report);
            if !changes.is_empty() {
                return (count, changes);
            }
            self.now += self.tick;
        }
        panic!("nothing changes");
    }

    fn shut(&mut self, region: usize) {
        self.board.shut(region, DownCause::CircuitOpen, self.now);
    }

    fn where_to(&mut self, count: usize) -> Vec<usize> {
        (0..count).map(|_| self.plan().region).collect()
    }
}

fn down(region: usize, cause: DownCause, active: Option<usize>) -> Change {
    Change {
        region,
        down: Some(cause),
        active,
    }
}

fn up(region: usize, active: usize) -> Change {
    Change {
        region,
        down: None,
        active: Some(active),
    }
}

#[test]
fn a_run_of_failures_needs_its_count_and_its_time() {
    let mut told = Told::new(2);
    let (count, changes) = told.until_change(A, Report::Failed);
    assert_eq!(count, 11, "the first, and one a tick for a second");
    assert_eq!(changes, [down(A, DownCause::Failures, Some(B))]);

    let mut told = Told::new(2);
    told.tick = 2 * SECOND;
    let (count, _) = told.until_change(A, Report::Failed);
    assert_eq!(count, 3);
}

#[test]
fn a_run_of_refusals_has_its_own_measure() {
    let mut told = Told::new(2);
    let (count, changes) = told.until_change(A, Report::Refused);
    assert_eq!(count, 21);
    assert_eq!(changes, [down(A, DownCause::Refusals, Some(B))]);
}

#[test]
fn a_success_ends_every_run() {
    let mut told = Told::new(2);
    for _ in 0..100 {
        for report in [
            Report::Failed,
            Report::Refused,
            Report::Failed,
            Report::Good,
        ] {
            assert!(told.one(A, report).is_empty());
            told.later(told.tick);
        }
    }
    for _ in 0..1000 {
        assert!(told.one(A, Report::Nothing).is_empty());
    }
}

#[test]
fn a_hundred_failures_of_one_moment_move_nobody() {
    let mut told = Told::new(2);
    let tickets: Vec<_> = (0..100).map(|_| told.plan()).collect();
    told.later(SECOND);
    for ticket in tickets {
        assert!(told.settle(ticket, Report::Failed).is_empty());
    }
    told.one(A, Report::Good);
}

#[test]
fn an_open_circuit_takes_a_region_down_at_once_and_says_when_to_probe() {
    let mut told = Told::new(2);
    let after = Some(3 * SECOND);
    let changes = told.one(A, Report::Shut(DownCause::CircuitOpen, after));
    assert_eq!(changes, [down(A, DownCause::CircuitOpen, Some(B))]);
    told.later(3 * SECOND - Duration::from_millis(1));
    assert_eq!(told.where_to(2), [B, B]);
    told.later(Duration::from_millis(1));
    assert_eq!(told.where_to(2), [A, B]);
}

#[test]
fn a_region_that_is_down_gets_one_probe_a_period_one_at_a_time() {
    let mut told = Told::new(2);
    told.shut(A);
    assert_eq!(told.where_to(2), [B, B]);
    told.later(SECOND);
    let probe = told.plan();
    assert_eq!((probe.region, probe.probe), (A, true));
    assert_eq!(told.where_to(2), [B, B]);
    told.later(5 * SECOND);
    assert_eq!(told.where_to(2), [B, B], "it is still under way");
    told.settle(probe, Report::Nothing);
    assert_eq!(told.where_to(2), [A, B]);
}

#[test]
fn a_probe_that_hangs_does_not_hold_up_the_next_one_for_good() {
    let mut told = Told::new(2);
    told.shut(A);
    told.later(SECOND);
    assert!(told.plan().probe);
    told.later(10 * SECOND - Duration::from_millis(1));
    assert_eq!(told.where_to(2), [B, B]);
    told.later(Duration::from_millis(1));
    assert_eq!(told.where_to(2), [A, B]);
}

#[test]
fn a_request_that_cannot_go_on_is_a_probe_only_when_no_other_came() {
    let mut told = Told::new(2);
    told.shut(A);
    told.later(2 * SECOND - Duration::from_millis(1));
    assert_eq!(told.board.plan(told.now, false, None).region, B);
    told.later(Duration::from_millis(1));
    assert_eq!(told.board.plan(told.now, false, None).region, A);
}

#[test]
fn it_returns_after_good_probes_in_a_row_and_its_least_time() {
    let mut told = Told::new(2);
    told.shut(A);
    told.board.take_changes();
    told.tick = SECOND;
    told.later(SECOND);
    for report in [Report::Good, Report::Good, Report::Failed] {
        assert!(told.one(A, report).is_empty());
        told.later(SECOND);
    }
    // 4 s down: the row began anew, and ends at 6 s.
    let (count, changes) = told.until_change(A, Report::Good);
    assert_eq!((count, changes), (3, vec![up(A, A)]));
    assert_eq!(told.where_to(2), [A, A]);

    told.later(61 * SECOND);
    told.shut(A);
    told.board.take_changes();
    told.later(SECOND);
    let (count, _) = told.until_change(A, Report::Good);
    assert_eq!(count, 5, "three would do, but it is down for 5 s at least");
}

#[test]
fn a_region_that_falls_again_stays_down_twice_as_long() {
    let mut told = Told::new(2);
    told.tick = SECOND;
    let mut stays = Vec::new();
    for _ in 0..9 {
        told.shut(A);
        told.board.take_changes();
        let before = told.now;
        told.later(SECOND);
        told.until_change(A, Report::Good);
        stays.push((told.now - before).as_secs());
        told.later(59 * SECOND);
    }
    assert_eq!(stays, [5, 10, 20, 40, 80, 160, 320, 320, 320]);
    told.later(SECOND);
    told.shut(A);
    told.board.take_changes();
    told.later(SECOND);
    let (count, _) = told.until_change(A, Report::Good);
    assert_eq!(count, 5, "it had been up for a minute");
}

#[test]
fn results_from_before_a_change_move_nothing() {
    let mut told = Told::with(2, |rules| rules.successes = 1);
    let early: Vec<_> = (0..20).map(|_| told.plan()).collect();
    told.shut(A);
    told.board.take_changes();
    told.later(SECOND * 6);
    for ticket in &early[..10] {
        assert!(told.settle(*ticket, Report::Good).is_empty());
    }
    assert_eq!(told.one(A, Report::Good), [up(A, A)]);
    told.later(SECOND);
    for ticket in &early[10..] {
        let shut = Report::Shut(DownCause::CircuitOpen, None);
        assert!(told.settle(*ticket, shut).is_empty());
    }
}

#[test]
fn a_request_goes_through_the_regions_that_are_up_in_order() {
    let mut told = Told::new(3);
    told.shut(B);
    let mut tried = Tried::default();
    tried.add(told.plan().region);
    let next = told.board.next(told.now, true, tried).unwrap();
    assert_eq!((next.region, next.probe), (C, false));
    tried.add(C);
    assert_eq!(told.board.next(told.now, true, tried), None);
    // What is down may be tried once a period, when all else has failed.
    told.later(SECOND);
    let next = told.board.next(told.now, true, tried).unwrap();
    assert_eq!((next.region, next.probe), (B, true));
    assert_eq!(told.board.next(told.now, true, tried), None);
}

#[test]
fn less_preferred_regions_are_not_probed_while_they_are_not_needed() {
    let mut told = Told::new(3);
    told.shut(B);
    told.later(SECOND);
    assert_eq!(told.where_to(3), [A, A, A]);
    told.shut(A);
    assert_eq!(told.where_to(3), [B, C, C]);
}

#[test]
fn with_all_down_each_is_tried_the_longest_untried_first() {
    let mut told = Told::new(3);
    for region in [A, B, C] {
        told.shut(region);
    }
    assert_eq!(told.board.active(), None);
    assert_eq!(told.where_to(4), [A, B, C, A]);
    let mut tried = Tried::default();
    tried.add(A);
    let next = told.board.next(told.now, true, tried).unwrap();
    assert_eq!(next.region, B);
    tried.add(B);
    assert_eq!(told.board.next(told.now, true, tried).unwrap().region, C);
    tried.add(C);
    assert_eq!(told.board.next(told.now, true, tried), None);

    // Three good ones, and the first region that lives is in use.
    told.board.take_changes();
    for round in 0..3 {
        told.one(A, Report::Failed);
        let changes = told.one(B, Report::Good);
        assert_eq!(changes.is_empty(), round < 2);
        if round < 2 {
            told.one(C, Report::Failed);
        }
    }
    assert_eq!(told.board.active(), Some(B));
}

#[test]
fn a_region_can_be_down_for_so_long_and_no_longer() {
    let mut told = Told::with(2, |rules| rules.max_down = Some(30 * SECOND));
    told.shut(A);
    told.board.take_changes();
    for _ in 0..29 {
        told.later(SECOND);
        told.one(A, Report::Failed);
        assert_eq!(told.where_to(1), [B]);
    }
    told.later(SECOND);
    assert_eq!(told.where_to(2), [A, A]);
    assert_eq!(told.board.take_changes(), [up(A, A)]);
}

#[test]
fn by_hand_another_region_goes_first_or_alone() {
    let mut told = Told::new(3);
    told.board.prefer(C);
    assert_eq!(told.where_to(1), [C]);
    let mut tried = Tried::default();
    tried.add(C);
    assert_eq!(told.board.next(told.now, true, tried).unwrap().region, A);
    told.shut(C);
    assert_eq!(told.where_to(1), [A]);
    told.board.pin(C);
    assert_eq!(told.where_to(3), [C, C, C]);
    assert_eq!(told.board.next(told.now, true, tried), None);
    assert_eq!(told.board.active(), Some(C));
    told.board.release();
    assert_eq!(told.where_to(1), [A]);
}

#[test]
fn a_region_that_is_ready_takes_the_request_unless_it_is_down() {
    let mut told = Told::new(2);
    let ready = |told: &mut Told| told.board.plan(told.now, true, Some(B)).region;
    assert_eq!(ready(&mut told), B);
    told.shut(B);
    assert_eq!(ready(&mut told), A);
    told.shut(A);
    assert_eq!(ready(&mut told), B, "all are down");
}

#[test]
fn the_next_moment_that_matters_is_known() {
    let mut told = Told::new(2);
    let in_time = |told: &Told| told.board.next_due(told.now).map(|at| at - told.now);
    assert_eq!(in_time(&told), None);
    told.shut(A);
    assert_eq!(in_time(&told), Some(SECOND));
    told.later(SECOND);
    assert_eq!(
        in_time(&told),
        Some(SECOND),
        "for a request that cannot go on"
    );
    told.plan();
    assert_eq!(in_time(&told), Some(10 * SECOND), "the lease");
}

#[test]
fn times_without_end_do_not_overflow() {
    let mut told = Told::with(2, |rules| {
        rules.probe_every = Duration::MAX;
        rules.min_down = Duration::MAX;
        rules.max_down = Some(Duration::MAX);
    });
    told.shut(A);
    assert_eq!(told.where_to(2), [B, B]);
    assert!(told.board.next_due(told.now).is_some());
}

#[cfg(feature = "config")]
#[test]
fn other_rules_hold_for_a_region_that_is_down() {
    let mut told = Told::with(2, |rules| {
        rules.probe_every = 3600 * SECOND;
        rules.min_down = 3600 * SECOND;
    });
    told.shut(A);
    told.board.take_changes();
    told.later(10 * SECOND);
    assert_eq!(told.where_to(2), [B, B]);
    let now = told.now;
    told.board.go_by(Rules::default(), now);
    // A period from now, and not before; its least time is over then.
    assert_eq!(told.where_to(1), [B]);
    for _ in 0..2 {
        told.later(SECOND);
        assert_eq!(told.one(A, Report::Good), []);
    }
    told.later(SECOND);
    assert_eq!(told.one(A, Report::Good), [up(A, A)]);

    // The same rules again put no probe off.
    told.shut(A);
    told.later(SECOND - Duration::from_millis(1));
    let now = told.now;
    told.board.go_by(Rules::default(), now);
    told.later(Duration::from_millis(1));
    assert_eq!(told.where_to(1), [A]);
}
